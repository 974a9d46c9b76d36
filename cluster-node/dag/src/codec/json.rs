//! dag-json, as far as its links go.
//!
//! <https://ipld.io/specs/codecs/dag-json/spec/>: JSON in which a map of the one key `/` with a text is a link. A reader
//! of our own, since those of the ecosystem recurse into the input or build the whole value.

use node_core::Cid;

use super::{DEPTH_MAX, Fault, Links};

/// Longest text that is taken for a CID: as long as the longest binary CID in base 2 with its prefix.
const CID_TEXT_MAX: usize = 8 * node_core::CID_BYTES_MAX + 8;

/// What an open list or map waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    /// A list that has no item yet.
    List,
    /// A list behind an item.
    ListMore,
    /// A map that has no entry yet.
    Map,
    /// A map behind an entry.
    MapMore,
}

/// Collects the links of a block.
pub(crate) fn links(bytes: &[u8], links: &mut Links) -> Result<(), Fault> {
    let mut input = Input { bytes, at: 0 };
    let mut open: Vec<Open> = Vec::new();
    loop {
        // In front of a value, of a key, or of the end of what is open.
        input.skip_white();
        match open.last_mut() {
            None => {}
            Some(state @ (Open::List | Open::ListMore)) => {
                if input.skip(b']') {
                    open.pop();
                    if open.is_empty() {
                        break;
                    }
                    continue;
                }
                if *state == Open::ListMore {
                    input.expect(b',')?;
                    input.skip_white();
                }
                *state = Open::ListMore;
            }
            Some(state @ (Open::Map | Open::MapMore)) => {
                if input.skip(b'}') {
                    open.pop();
                    if open.is_empty() {
                        break;
                    }
                    continue;
                }
                if *state == Open::MapMore {
                    input.expect(b',')?;
                    input.skip_white();
                }
                *state = Open::MapMore;
                input.expect(b'"')?;
                input.text(None)?;
                input.skip_white();
                input.expect(b':')?;
                input.skip_white();
            }
        }
        match input.peek() {
            Some(opening @ (b'{' | b'[')) => {
                if open.len() == DEPTH_MAX {
                    return Err(input.fault(&format!("lists and maps lie more than {DEPTH_MAX} deep in each other")));
                }
                if opening == b'[' {
                    input.at += 1;
                    open.push(Open::List);
                    continue;
                }
                match input.link()? {
                    Some(cid) => links.push(cid)?,
                    None => {
                        input.at += 1;
                        open.push(Open::Map);
                        continue;
                    }
                }
            }
            Some(b'"') => {
                input.at += 1;
                input.text(None)?;
            }
            Some(b'-' | b'0'..=b'9') => input.number()?,
            Some(b't') => input.word("true")?,
            Some(b'f') => input.word("false")?,
            Some(b'n') => input.word("null")?,
            Some(_) => return Err(input.fault("no value begins like this")),
            None => return Err(input.fault("it ends where a value should be")),
        }
        if open.is_empty() {
            break;
        }
    }
    input.skip_white();
    if input.at < bytes.len() {
        return Err(input.fault("something follows behind its end"));
    }
    Ok(())
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Input<'_> {
    fn fault(&self, what: &str) -> Fault {
        Fault::Malformed(format!("{what} (byte {} of {})", self.at, self.bytes.len()))
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_white(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    fn skip(&mut self, byte: u8) -> bool {
        let here = self.peek() == Some(byte);
        self.at += usize::from(here);
        here
    }

    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.skip(byte) {
            Ok(())
        } else {
            Err(self.fault(&format!("here should be {:?}", char::from(byte))))
        }
    }

    fn word(&mut self, word: &str) -> Result<(), Fault> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(())
        } else {
            Err(self.fault("no value begins like this"))
        }
    }

    fn number(&mut self) -> Result<(), Fault> {
        self.skip(b'-');
        if !self.skip(b'0') {
            self.digits()?;
        }
        if self.skip(b'.') {
            self.digits()?;
        }
        if self.skip(b'e') || self.skip(b'E') {
            if !self.skip(b'+') {
                self.skip(b'-');
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let first = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == first {
            return Err(self.fault("a number lacks a digit"));
        }
        Ok(())
    }

    /// Reads a text behind its opening quote. What it says is appended to `out`, up to [`CID_TEXT_MAX`] bytes and one:
    /// longer texts are read to their end but are of no interest.
    fn text(&mut self, mut out: Option<&mut String>) -> Result<(), Fault> {
        let mut say = |c: char| {
            if let Some(out) = &mut out
                && out.len() <= CID_TEXT_MAX
            {
                out.push(c);
            }
        };
        loop {
            let rest = &self.bytes[self.at..];
            let plain = rest
                .iter()
                .position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f))
                .unwrap_or(rest.len());
            let Ok(text) = std::str::from_utf8(&rest[..plain]) else {
                return Err(self.fault("a text is not UTF-8"));
            };
            text.chars().take(CID_TEXT_MAX + 1).for_each(&mut say);
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    say(self.escaped()?);
                }
                Some(_) => return Err(self.fault("a text holds a control character")),
                None => return Err(self.fault("it ends inside a text")),
            }
        }
    }

    fn escaped(&mut self) -> Result<char, Fault> {
        let Some(byte) = self.peek() else {
            return Err(self.fault("it ends inside a text"));
        };
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.hex4()?;
                // Halves of a pair are of no interest: neither key nor CID has such characters.
                char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => return Err(self.fault("a text holds an escape that JSON does not have")),
        })
    }

    fn hex4(&mut self) -> Result<u32, Fault> {
        let digits = self
            .bytes
            .get(self.at..self.at + 4)
            .filter(|d| d.iter().all(u8::is_ascii_hexdigit));
        let Some(digits) = digits else {
            return Err(self.fault("\\u is not followed by four hexadecimal digits"));
        };
        let value = digits.iter().fold(0, |value, digit| {
            value << 4 | char::from(*digit).to_digit(16).unwrap_or_default()
        });
        self.at += 4;
        Ok(value)
    }

    /// Reads a link, if the map that begins here is one; otherwise the place stays as it is.
    fn link(&mut self) -> Result<Option<Cid>, Fault> {
        let begin = self.at;
        match self.link_text() {
            Ok(Some(text)) => match text.parse() {
                Ok(cid) => Ok(Some(cid)),
                // Whoever writes such a map means a link: Kubo refuses it too.
                Err(error) => Err(self.fault(&format!("a link is broken: {error}"))),
            },
            // Also where the look ahead met an error: reading on will meet it again.
            Ok(None) | Err(_) => {
                self.at = begin;
                Ok(None)
            }
        }
    }

    /// The text in `{"/": "text"}`.
    fn link_text(&mut self) -> Result<Option<String>, Fault> {
        let (mut key, mut value) = (String::new(), String::new());
        self.expect(b'{')?;
        self.skip_white();
        self.expect(b'"')?;
        self.text(Some(&mut key))?;
        if key != "/" {
            return Ok(None);
        }
        self.skip_white();
        self.expect(b':')?;
        self.skip_white();
        if !self.skip(b'"') {
            return Ok(None);
        }
        self.text(Some(&mut value))?;
        self.skip_white();
        Ok(self.skip(b'}').then_some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";

    fn found(text: &str) -> Result<Vec<String>, String> {
        let mut found = Links::default();
        match links(text.as_bytes(), &mut found) {
            Ok(()) => Ok(found.0.iter().map(Cid::to_string).collect()),
            Err(Fault::Malformed(reason)) => Err(reason),
            Err(Fault::TooManyLinks) => Err("too many".into()),
        }
    }

    #[test]
    fn links_are_found_wherever_they_stand() {
        let link = format!("{{\"/\":\"{CID}\"}}");
        for (text, count) in [
            (link.clone(), 1),
            (format!(" [1, {{\"a\" : {link} , \"b\":[ ]}}, {link}]\n"), 2),
            (format!("{{ \"\\u002f\" : \"{CID}\" }}"), 1),
            (format!("{{\"/\":\"{CID}\",\"a\":1}}"), 0),
            (format!("{{\"a\":1,\"/\":\"{CID}\"}}"), 0),
            ("{\"/\":{\"bytes\":\"AAEC\"}}".to_owned(), 0),
            ("{\"/\":1}".to_owned(), 0),
            ("[true,false,null,-0.5e+7,\"\\\"\\u00e9é\",{},[[]]]".to_owned(), 0),
        ] {
            assert_eq!(found(&text), Ok(vec![CID.to_owned(); count]), "{text}");
        }
    }

    #[test]
    fn garbage_is_refused_with_its_place() {
        for (text, why) in [
            ("", "ends where a value"),
            ("[1", "here should be ','"),
            ("[1,]", "no value begins"),
            ("[1 2]", "here should be ','"),
            ("{1:2}", "here should be '\"'"),
            ("{\"a\" 1}", "here should be ':'"),
            ("{\"a\":1,}", "here should be '\"'"),
            ("1 1", "behind its end"),
            ("01", "behind its end"),
            ("1.", "lacks a digit"),
            ("-", "lacks a digit"),
            ("tru", "no value begins"),
            ("\"a", "ends inside a text"),
            ("\"\n\"", "control character"),
            ("\"\\x\"", "escape"),
            ("\"\\u12g4\"", "hexadecimal"),
            ("{\"/\":\"hello\"}", "a link is broken"),
            ("{\"/\":\"\\q\"}", "escape"),
            ("]", "no value begins"),
        ] {
            let reason = found(text).expect_err(text);
            assert!(reason.contains(why), "{text}: {reason}");
        }
        let mut none = Links::default();
        assert!(matches!(links(b"\"\xff\"", &mut none), Err(Fault::Malformed(reason)) if reason.contains("UTF-8")));
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| found(&format!("{}{}", "[".repeat(depth), "]".repeat(depth)));
        assert_eq!(nested(DEPTH_MAX), Ok(Vec::new()));
        assert!(nested(DEPTH_MAX + 1).expect_err("too deep").contains("deep"));
        assert!(nested(1_000_000).expect_err("too deep").contains("deep"));
    }

    #[test]
    fn a_long_text_is_no_cid_and_costs_little() {
        let text = format!("{{\"/\":\"{}\"}}", "b".repeat(1 << 20));
        assert!(found(&text).expect_err("no CID").contains("a link is broken"));
    }
}
