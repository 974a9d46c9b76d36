//! dag-cbor, as far as its links go.
//!
//! <https://ipld.io/specs/codecs/dag-cbor/spec/>: CBOR with definite lengths, text keys, no tag but 42, which is a link.
//! Not asked for are the shortest encoding of numbers, sorted or different keys, and text in UTF-8: Kubo reads blocks
//! without them, large public data sets have such text, and none of it changes what a block links to.

use node_core::Cid;

use super::{DEPTH_MAX, Fault, Links};

/// The tag of a link.
const LINK: u64 = 42;

/// What is still to come of an open list or map.
enum Open {
    Items(u64),
    /// Entries, of which the next thing is a key.
    Keys(u64),
    /// Entries behind the one whose value comes next.
    Value(u64),
}

/// Collects the links of a block.
pub(crate) fn links(bytes: &[u8], links: &mut Links) -> Result<(), Fault> {
    let mut input = Input { bytes, at: 0 };
    let mut open: Vec<Open> = Vec::new();
    loop {
        let key = match open.last_mut() {
            None => false,
            Some(Open::Items(0) | Open::Keys(0)) => {
                open.pop();
                if open.is_empty() {
                    break;
                }
                continue;
            }
            Some(Open::Items(left)) => {
                *left -= 1;
                false
            }
            Some(Open::Value(left)) => {
                let left = *left;
                replace_last(&mut open, Open::Keys(left));
                false
            }
            Some(Open::Keys(left)) => {
                let left = *left - 1;
                replace_last(&mut open, Open::Value(left));
                true
            }
        };
        let head = input.head()?;
        if key && head.major != 3 {
            return Err(input.fault("a key of a map is no text"));
        }
        match head.major {
            0 | 1 => {}
            2 | 3 => {
                input.take(head.value)?;
            }
            4 | 5 => {
                if open.len() == DEPTH_MAX {
                    return Err(input.fault(&format!("lists and maps lie more than {DEPTH_MAX} deep in each other")));
                }
                // A count that the bytes can't hold is found when they end; nothing is allocated for it.
                open.push(if head.major == 4 {
                    Open::Items(head.value)
                } else {
                    Open::Keys(head.value)
                });
                continue;
            }
            6 => links.push(input.link(head.value)?)?,
            _ => {}
        }
        if open.is_empty() {
            break;
        }
    }
    if input.at < bytes.len() {
        return Err(input.fault("bytes are left over behind its end"));
    }
    Ok(())
}

fn replace_last(open: &mut [Open], with: Open) {
    if let Some(last) = open.last_mut() {
        *last = with;
    }
}

/// The beginning of a data item.
pub(crate) struct Head {
    /// The major type, 0 to 7.
    pub(crate) major: u8,
    /// The number, length or tag in it.
    pub(crate) value: u64,
}

/// CBOR that is read from front to back.
pub(crate) struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn fault(&self, what: &str) -> Fault {
        Fault::Malformed(format!("{what} (byte {} of {})", self.at, self.bytes.len()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// The next head; floats are read whole.
    pub(crate) fn head(&mut self) -> Result<Head, Fault> {
        let first = self.take(1)?[0];
        let (major, low) = (first >> 5, first & 0x1f);
        let value = match low {
            0..=23 => u64::from(low),
            24..=27 => {
                let bytes = self.take(1 << (low - 24))?;
                bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
            }
            31 => return Err(self.fault("it has an item of indefinite length, which dag-cbor does not have")),
            _ => return Err(self.fault("it has a head that CBOR does not define")),
        };
        // False, true, null, and floats of 16, 32 and 64 bits.
        if major == 7 && !matches!(low, 20..=22 | 25..=27) {
            return Err(self.fault("it has a simple value that is not false, true, null or a float"));
        }
        Ok(Head { major, value })
    }

    pub(crate) fn take(&mut self, length: u64) -> Result<&'a [u8], Fault> {
        let rest = &self.bytes[self.at..];
        match usize::try_from(length).ok().and_then(|length| rest.get(..length)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(self.fault(&format!("it ends inside an item of {length} bytes"))),
        }
    }

    /// The link behind the head of a tag.
    pub(crate) fn link(&mut self, tag: u64) -> Result<Cid, Fault> {
        if tag != LINK {
            return Err(self.fault(&format!("it has tag {tag}, and dag-cbor has none but {LINK}")));
        }
        let head = self.head()?;
        if head.major != 2 {
            return Err(self.fault("a link is no byte string"));
        }
        // The zero says that a binary CID follows, and no text in some base.
        match self.take(head.value)?.split_first() {
            Some((0, binary)) => {
                Cid::from_bytes(binary).map_err(|error| self.fault(&format!("a link is broken: {error}")))
            }
            _ => Err(self.fault("a link does not begin with a zero byte")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK_BYTES: [u8; 8] = [0xd8, 0x2a, 0x45, 0, 1, 0x55, 0, 0];

    fn count(bytes: &[u8]) -> Result<usize, String> {
        let mut found = Links::default();
        match links(bytes, &mut found) {
            Ok(()) => Ok(found.0.len()),
            Err(Fault::Malformed(reason)) => Err(reason),
            Err(Fault::TooManyLinks) => Err("too many".into()),
        }
    }

    #[test]
    fn links_are_found_wherever_they_stand() {
        assert_eq!(count(&LINK_BYTES), Ok(1));
        assert_eq!(
            count(&[&[0x83, 0x01, 0x82][..], &LINK_BYTES, &[0xf6], &LINK_BYTES].concat()),
            Ok(2)
        );
        assert_eq!(
            count(&[&[0xa2, 0x61, b'a'][..], &LINK_BYTES, &[0x61, b'b', 0xa0]].concat()),
            Ok(1)
        );
        for plain in [
            &[0x00][..],
            &[0x38, 0xff],
            &[0x80],
            &[0xa0],
            &[0x40],
            &[0x60],
            &[0xf4],
            &[0xfb, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(count(plain), Ok(0), "{plain:?}");
        }
    }

    #[test]
    fn garbage_is_refused_with_its_place() {
        let refused = |bytes: &[u8]| count(bytes).expect_err("refused");
        assert!(refused(&[]).contains("ends inside"));
        assert!(refused(&[0x82, 0x01]).contains("ends inside"));
        assert!(refused(&[0x01, 0x01]).contains("left over"));
        assert!(refused(&[0x9f, 0xff]).contains("indefinite"));
        assert!(refused(&[0xa1, 0x01, 0x01]).contains("no text"));
        assert!(refused(&[0xc1, 0x01]).contains("tag 1"));
        assert!(refused(&[0xd8, 0x2a, 0x61, b'a']).contains("no byte string"));
        assert!(refused(&[0xd8, 0x2a, 0x44, 1, 0x55, 0, 0]).contains("zero byte"));
        assert!(refused(&[0xd8, 0x2a, 0x40]).contains("zero byte"));
        assert!(refused(&[0xd8, 0x2a, 0x43, 0, 1, 2]).contains("broken"));
        assert!(refused(&[0xf7]).contains("simple value"));
        assert!(refused(&[0xf8, 0xff]).contains("simple value"));
        assert!(refused(&[0x1c]).contains("does not define"));
        assert!(refused(&[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).contains("ends inside"));
        assert!(refused(&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).contains("ends inside"));
        assert!(refused(&[0x81, 0x82, 0x01, 0x9f]).contains("byte 4 of 4"));
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| {
            let mut bytes = vec![0x81; depth - 1];
            bytes.push(0x80);
            count(&bytes)
        };
        assert_eq!(nested(DEPTH_MAX), Ok(0));
        assert!(nested(DEPTH_MAX + 1).expect_err("too deep").contains("deep"));
        assert!(nested(2_000_000).expect_err("too deep").contains("deep"));
    }
}
