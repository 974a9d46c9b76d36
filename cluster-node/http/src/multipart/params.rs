//! A header value with parameters, as `form-data; name="file"; filename="a b"`.

use std::borrow::Cow;

use percent_encoding::percent_decode;

/// The value before the parameters in lower case, and the parameters with their names in lower case; `None` if it is not
/// written as RFC 2045 says. A backslash in quotes stands for the next character only before one that needs it, as in Go:
/// elsewhere it is most often part of a path of Windows.
pub fn parse(text: &[u8]) -> Option<(String, Vec<(String, Vec<u8>)>)> {
    let end = text.iter().position(|byte| *byte == b';').unwrap_or(text.len());
    let value = std::str::from_utf8(text[..end].trim_ascii()).ok()?.to_ascii_lowercase();
    let mut params = Vec::new();
    let mut rest = &text[end..];
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Some((value, params));
        }
        rest = rest.strip_prefix(b";")?.trim_ascii_start();
        if rest.is_empty() {
            // A semicolon at the end.
            return Some((value, params));
        }
        let (name, after) = token(rest)?;
        rest = after.trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
        let (content, after) = match rest.strip_prefix(b"\"") {
            Some(inside) => quoted(inside)?,
            None => {
                let (content, after) = loose(rest);
                (content.to_vec(), after)
            }
        };
        let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
        params.push((name, content));
        rest = after;
    }
}

/// A parameter; one with a star, as in RFC 5987 (`filename*=UTF-8''a%20b`), goes before one without.
pub fn find<'a>(params: &'a [(String, Vec<u8>)], name: &str) -> Option<Cow<'a, [u8]>> {
    let of = |wanted: &str| {
        params
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.as_slice())
    };
    let extended = of(&format!("{name}*")).and_then(|value| {
        let mut parts = value.splitn(3, |byte| *byte == b'\'');
        let (charset, _, text) = (parts.next()?, parts.next()?, parts.next()?);
        let known = charset.eq_ignore_ascii_case(b"utf-8") || charset.eq_ignore_ascii_case(b"us-ascii");
        known.then(|| Cow::from(percent_decode(text)))
    });
    extended.or_else(|| of(name).map(Cow::Borrowed))
}

fn is_special(byte: u8) -> bool {
    b"()<>@,;:\\\"/[]?=".contains(&byte)
}

fn token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_token = |byte: &u8| byte.is_ascii_graphic() && !is_special(*byte);
    let end = text.iter().position(|byte| !is_token(byte)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A value without quotes, which more characters occur in than are allowed there.
fn loose(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| *byte == b';' || byte.is_ascii_whitespace());
    text.split_at(end.unwrap_or(text.len()))
}

fn quoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut content = Vec::new();
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => return Some((content, &text[at + 1..])),
            b'\\' if text.get(at + 1).is_some_and(|next| is_special(*next)) => {
                content.push(text[at + 1]);
                at += 2;
            }
            byte => {
                content.push(*byte);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filename(text: &str) -> Option<String> {
        let (_, params) = parse(text.as_bytes())?;
        find(&params, "filename").map(|name| String::from_utf8(name.into_owned()).unwrap())
    }

    #[test]
    fn names_are_found_however_they_are_written() {
        for (text, name) in [
            ("form-data; name=\"file\"; filename=\"a b\"", "a b"),
            ("file;filename=\"x\"", "x"),
            ("attachment ; FileName = plain.txt ; x=y", "plain.txt"),
            ("form-data; filename=\"C:\\dir\\a\"", "C:\\dir\\a"),
            ("form-data; filename=\"a\\\"b\\\\c;d\"", "a\"b\\c;d"),
            ("form-data; filename=\"\"", ""),
            ("form-data; filename=\"ä\"; ", "ä"),
            ("form-data; filename=plain; filename*=UTF-8''a%20%C3%A4", "a ä"),
            ("form-data; filename=plain; filename*=latin-9''a%20", "plain"),
            ("form-data; filename=d%2Fx+y", "d%2Fx+y"),
        ] {
            assert_eq!(filename(text).as_deref(), Some(name), "{text}");
        }
        for text in [
            "form-data",
            "form-data; name=x",
            "form-data; filename=\"open",
            "a; b",
            "a; =c",
            "a; filename",
        ] {
            assert_eq!(filename(text), None, "{text}");
        }
        assert_eq!(parse(b" Form-Data ;").unwrap().0, "form-data");
    }

    proptest! {
        #[test]
        fn quoted_text_is_read_again(name in "[^\r\n\\x00]{0,30}") {
            let escaped = name.replace('\\', "\\\\").replace('"', "\\\"");
            prop_assert_eq!(filename(&format!("form-data; filename=\"{escaped}\"")), Some(name));
        }

        #[test]
        fn nothing_breaks_it(text in prop::collection::vec(any::<u8>(), 0..60), like in "[a;=\"\\\\ *']{0,30}") {
            let _ = (parse(&text), filename(&like));
        }
    }
}
