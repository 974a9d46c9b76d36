//! What a UnixFS block says in the data of its dag-pb node.

use bytes::Bytes;

use crate::codec::pb::{self, Fields, Value};
use crate::codec::{Fault, LINKS_MAX};
use crate::varint;

/// The kinds of UnixFS blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Raw = 0,
    Directory = 1,
    File = 2,
    Metadata = 3,
    Symlink = 4,
    HamtShard = 5,
}

/// When content was changed last: UnixFS 1.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtime {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds after that second, below 1 000 000 000.
    pub nanos: u32,
}

impl Mtime {
    /// Whether the nanoseconds are less than a second.
    pub(crate) fn is_valid(self) -> bool {
        self.nanos < 1_000_000_000
    }
}

/// The decoded message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Data {
    pub(crate) kind: Kind,
    /// File content, symlink target or bit field.
    pub(crate) data: Option<Bytes>,
    pub(crate) file_size: Option<u64>,
    pub(crate) block_sizes: Vec<u64>,
    pub(crate) hash_type: Option<u64>,
    pub(crate) fanout: Option<u64>,
    /// Permissions and what else Unix keeps in twelve bits.
    pub(crate) mode: Option<u32>,
    pub(crate) mtime: Option<Mtime>,
}

impl Data {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            data: None,
            file_size: None,
            block_sizes: Vec::new(),
            hash_type: None,
            fanout: None,
            mode: None,
            mtime: None,
        }
    }

    /// Decodes the message. Unknown fields are passed over, as protobuf wants it; later versions may add some.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, Fault> {
        let mut kind = None;
        let mut decoded = Self::new(Kind::Raw);
        let mut fields = Fields::new(bytes);
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (1, Value::Number(number)) => {
                    kind = Some(match number {
                        0 => Kind::Raw,
                        1 => Kind::Directory,
                        2 => Kind::File,
                        3 => Kind::Metadata,
                        4 => Kind::Symlink,
                        5 => Kind::HamtShard,
                        _ => return Err(Fault::new(format!("there is no UnixFS type {number}"))),
                    });
                }
                (2, Value::Bytes(value)) => decoded.data = Some(bytes.slice_ref(value)),
                (3, Value::Number(size)) => decoded.file_size = Some(size),
                (4, Value::Number(size)) => decoded.block_size(size)?,
                (4, Value::Bytes(packed)) => {
                    let mut sizes = Fields::new(packed);
                    while !sizes.is_empty() {
                        decoded.block_size(sizes.number()?)?;
                    }
                }
                (5, Value::Number(code)) => decoded.hash_type = Some(code),
                (6, Value::Number(fanout)) => decoded.fanout = Some(fanout),
                (7, Value::Number(mode)) => decoded.mode = Some(mode as u32),
                (8, Value::Bytes(value)) => decoded.mtime = mtime(value)?,
                (number @ 1..=8, _) => {
                    return Err(Fault::new(format!(
                        "field {number} of the UnixFS data has the wrong type"
                    )));
                }
                _ => {}
            }
        }
        decoded.kind = kind.ok_or_else(|| Fault::new("the UnixFS data has no type"))?;
        Ok(decoded)
    }

    fn block_size(&mut self, size: u64) -> Result<(), Fault> {
        if self.block_sizes.len() == LINKS_MAX {
            return Err(Fault::new(format!("it has more than {LINKS_MAX} block sizes")));
        }
        self.block_sizes.push(size);
        Ok(())
    }

    /// Appends the message to a dag-pb node, as its data and so as its end. Content is copied once.
    pub(crate) fn write(&self, node: &mut Vec<u8>) {
        let (head, tail) = self.around();
        let content = self.data.as_deref().unwrap_or_default();
        pb::write_data(node, &[&head, content, &tail]);
    }

    /// Bytes that the message takes.
    pub(crate) fn length(&self) -> usize {
        let (head, tail) = self.around();
        head.len() + self.data.as_ref().map_or(0, Bytes::len) + tail.len()
    }

    /// What stands in front of the content and behind it: fields in the order of their numbers, which every CID depends
    /// on.
    fn around(&self) -> (Vec<u8>, Vec<u8>) {
        let mut head = Vec::with_capacity(16);
        number(&mut head, 1, self.kind as u64);
        if let Some(data) = &self.data {
            head.push(2 << 3 | 2);
            varint::write(&mut head, data.len() as u64);
        }
        let mut tail = Vec::with_capacity(10 * self.block_sizes.len() + 64);
        if let Some(size) = self.file_size {
            number(&mut tail, 3, size);
        }
        for size in &self.block_sizes {
            number(&mut tail, 4, *size);
        }
        if let Some(code) = self.hash_type {
            number(&mut tail, 5, code);
        }
        if let Some(fanout) = self.fanout {
            number(&mut tail, 6, fanout);
        }
        if let Some(mode) = self.mode {
            number(&mut tail, 7, u64::from(mode));
        }
        if let Some(mtime) = self.mtime {
            let mut inner = Vec::with_capacity(16);
            number(&mut inner, 1, mtime.seconds as u64);
            if mtime.nanos > 0 {
                inner.push(2 << 3 | 5);
                inner.extend_from_slice(&mtime.nanos.to_le_bytes());
            }
            tail.push(8 << 3 | 2);
            varint::write(&mut tail, inner.len() as u64);
            tail.extend_from_slice(&inner);
        }
        (head, tail)
    }
}

fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3);
    varint::write(out, value);
}

/// Times that can't be are no times, as in Kubo; the content is good all the same.
fn mtime(bytes: &[u8]) -> Result<Option<Mtime>, Fault> {
    let (mut seconds, mut nanos) = (None, 0);
    let mut fields = Fields::new(bytes);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Number(value)) => seconds = Some(value as i64),
            (2, Value::Fixed32(value)) => nanos = value,
            (number @ 1..=2, _) => return Err(Fault::new(format!("field {number} of the mtime has the wrong type"))),
            _ => {}
        }
    }
    let mtime = seconds.map(|seconds| Mtime { seconds, nanos });
    Ok(mtime.filter(|mtime| mtime.is_valid()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data() -> impl Strategy<Value = Data> {
        let kind = prop_oneof![
            Just(Kind::Raw),
            Just(Kind::Directory),
            Just(Kind::File),
            Just(Kind::Metadata),
            Just(Kind::Symlink),
            Just(Kind::HamtShard)
        ];
        let mtime = (any::<i64>(), 0u32..1_000_000_000).prop_map(|(seconds, nanos)| Mtime { seconds, nanos });
        (
            kind,
            proptest::option::of(proptest::collection::vec(any::<u8>(), 0..100).prop_map(Bytes::from)),
            any::<Option<u64>>(),
            proptest::collection::vec(any::<u64>(), 0..10),
            any::<Option<u64>>(),
            any::<Option<u64>>(),
            any::<Option<u32>>(),
            proptest::option::of(mtime),
        )
            .prop_map(
                |(kind, data, file_size, block_sizes, hash_type, fanout, mode, mtime)| Data {
                    kind,
                    data,
                    file_size,
                    block_sizes,
                    hash_type,
                    fanout,
                    mode,
                    mtime,
                },
            )
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(data in data()) {
            let mut node = Vec::new();
            data.write(&mut node);
            let encoded = pb::Node::decode(&node.into()).expect("a node").data.expect("data");
            prop_assert_eq!(encoded.len(), data.length());
            prop_assert_eq!(Data::decode(&encoded), Ok(data));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok(data) = Data::decode(&bytes.clone().into()) {
                prop_assert!(data.block_sizes.len() <= bytes.len());
            }
        }
    }

    #[test]
    fn packed_sizes_unknown_fields_and_odd_times_are_taken() {
        let data = Data::decode(&Bytes::from_static(&[8, 2, 0x22, 3, 1, 0x80, 1, 0x20, 7, 0x78, 9])).expect("valid");
        assert_eq!(data.block_sizes, [1, 128, 7]);
        let odd = Data::decode(&Bytes::from_static(&[
            8, 2, 0x42, 7, 8, 1, 0x15, 0xff, 0xff, 0xff, 0xff,
        ]));
        assert_eq!(odd.expect("valid").mtime, None);
        let timeless = Data::decode(&Bytes::from_static(&[8, 2, 0x42, 0]));
        assert_eq!(timeless.expect("valid").mtime, None);
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |bytes: &'static [u8]| match Data::decode(&Bytes::from_static(bytes)) {
            Err(Fault::Malformed(reason)) => reason,
            other => panic!("{other:?}"),
        };
        assert!(refused(&[]).contains("no type"));
        assert!(refused(&[8, 6]).contains("no UnixFS type 6"));
        assert!(refused(&[10, 0]).contains("field 1 of the UnixFS data"));
        assert!(refused(&[8, 2, 0x42, 2, 0x10, 1]).contains("field 2 of the mtime"));
    }
}
