//! dag-pb: a list of named links and some data, as protobuf.
//!
//! <https://ipld.io/specs/codecs/dag-pb/spec/>. Decoding is as strict as in go-codec-dagpb, which Kubo uses: no unknown
//! fields, each field once and in its order inside a link, links in one run before or after the data.

use bytes::Bytes;
use node_core::Cid;

use super::Fault;
use crate::varint::{self, Varint};

/// A link of a dag-pb block, as far as it was decoded without copying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkRef<'a> {
    /// Where it leads.
    pub cid: Cid,
    /// Its name; empty when there is none. Any bytes: Kubo does not insist on UTF-8.
    pub name: &'a [u8],
    /// Bytes of the linked block and of all below it, as whoever made the link says.
    pub tsize: u64,
}

/// A link of a dag-pb block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Where it leads.
    pub cid: Cid,
    /// Its name; empty when there is none. Any bytes: Kubo does not insist on UTF-8.
    pub name: Bytes,
    /// Bytes of the linked block and of all below it, as whoever made the link says.
    pub tsize: u64,
}

/// A decoded dag-pb block. Names and data share the memory of the block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// The links in their order.
    pub links: Vec<Link>,
    /// The data, which UnixFS fills; none is another block than empty data.
    pub data: Option<Bytes>,
}

impl Node {
    /// Decodes a block.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, Fault> {
        let mut links = Vec::new();
        let data = scan(bytes, |link| {
            if links.len() == super::LINKS_MAX {
                return Err(Fault::TooManyLinks);
            }
            links.push(Link {
                cid: link.cid,
                name: bytes.slice_ref(link.name),
                tsize: link.tsize,
            });
            Ok(())
        })?;
        Ok(Self {
            links,
            data: data.map(|data| bytes.slice_ref(data)),
        })
    }

    /// Encodes it: links first, in the order that they have here. Writers of directories sort them by name before.
    #[cfg(test)]
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for link in &self.links {
            write_link(&mut out, &link.cid, &[&link.name], link.tsize);
        }
        if let Some(data) = &self.data {
            write_data(&mut out, &[data]);
        }
        out
    }
}

/// Walks over a block, hands out its links and returns its data.
pub(crate) fn scan<'a>(
    bytes: &'a [u8],
    mut on_link: impl FnMut(LinkRef<'a>) -> Result<(), Fault>,
) -> Result<Option<&'a [u8]>, Fault> {
    let mut data = None;
    // Links in two runs, around the data, would be two fields of the data model under one name.
    let (mut links, mut links_ended) = (false, false);
    let mut fields = Fields::new(bytes);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Bytes(value)) => {
                if data.replace(value).is_some() {
                    return Err(Fault::new("the data stands in it twice"));
                }
                links_ended = links;
            }
            (2, Value::Bytes(value)) => {
                if links_ended {
                    return Err(Fault::new("links stand both before and behind the data"));
                }
                links = true;
                on_link(link(value)?)?;
            }
            (number, value) => return Err(unexpected("a node", number, &value)),
        }
    }
    Ok(data)
}

fn link(bytes: &[u8]) -> Result<LinkRef<'_>, Fault> {
    let (mut cid, mut name, mut tsize) = (None, None, None);
    let mut fields = Fields::new(bytes);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Bytes(value)) if cid.is_none() && name.is_none() && tsize.is_none() => {
                cid = Some(Cid::from_bytes(value).map_err(|error| Fault::new(format!("a link is broken: {error}")))?);
            }
            (2, Value::Bytes(value)) if name.is_none() && tsize.is_none() => name = Some(value),
            (3, Value::Number(value)) if tsize.is_none() => tsize = Some(value),
            (number @ 1..=3, Value::Bytes(_) | Value::Number(_)) => {
                return Err(Fault::new(format!(
                    "field {number} of a link is repeated, out of order or of the wrong type"
                )));
            }
            (number, value) => return Err(unexpected("a link", number, &value)),
        }
    }
    Ok(LinkRef {
        cid: cid.ok_or_else(|| Fault::new("a link has no CID"))?,
        name: name.unwrap_or_default(),
        tsize: tsize.unwrap_or_default(),
    })
}

fn unexpected(of: &str, number: u64, value: &Value<'_>) -> Fault {
    let kind = match value {
        Value::Number(_) => "a number",
        Value::Fixed32(_) | Value::Fixed64 => "a fixed-size number",
        Value::Bytes(_) => "bytes",
    };
    Fault::new(format!("field {number} of {of} is {kind}, which it never is"))
}

/// Appends a link. The name is given in parts, which a sharded directory joins.
pub(crate) fn write_link(out: &mut Vec<u8>, cid: &Cid, name: &[&[u8]], tsize: u64) {
    let binary = cid.to_bytes();
    let name_length: usize = name.iter().map(|part| part.len()).sum();
    out.push(0x12);
    varint::write(out, link_length(binary.len(), name_length, tsize) as u64);
    out.push(0x0a);
    varint::write(out, binary.len() as u64);
    out.extend_from_slice(&binary);
    // Kubo writes the name even when it is empty, and the CIDs depend on that.
    out.push(0x12);
    varint::write(out, name_length as u64);
    for part in name {
        out.extend_from_slice(part);
    }
    out.push(0x18);
    varint::write(out, tsize);
}

/// Appends the data, given in parts. Nothing may follow.
pub(crate) fn write_data(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let length = parts.iter().map(|part| part.len()).sum();
    out.reserve(written_data(length));
    out.push(0x0a);
    varint::write(out, length as u64);
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Bytes of a link's inner message.
fn link_length(cid: usize, name: usize, tsize: u64) -> usize {
    1 + varint::length(cid as u64) + cid + 1 + varint::length(name as u64) + name + 1 + varint::length(tsize)
}

/// Bytes that [`write_link`] appends for a CID and a name of these lengths.
pub(crate) fn written_link(cid: usize, name: usize, tsize: u64) -> usize {
    let length = link_length(cid, name, tsize);
    1 + varint::length(length as u64) + length
}

/// Bytes that [`write_data`] appends.
pub(crate) fn written_data(data: usize) -> usize {
    1 + varint::length(data as u64) + data
}

/// The fields of a protobuf message, one after another.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

/// A field of a protobuf message.
pub(crate) struct Field<'a> {
    pub(crate) number: u64,
    pub(crate) value: Value<'a>,
}

/// What a field holds.
pub(crate) enum Value<'a> {
    Number(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(&'a [u8]),
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next field; none behind the last one.
    pub(crate) fn next(&mut self) -> Result<Option<Field<'a>>, Fault> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.number()?;
        let number = key >> 3;
        if number == 0 || number > (1 << 29) - 1 {
            return Err(Fault::new(format!("there is no field number {number} in protobuf")));
        }
        let value = match key & 7 {
            0 => Value::Number(self.number()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let length = self.number()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                let mut fixed = [0; 4];
                fixed.copy_from_slice(bytes);
                Value::Fixed32(u32::from_le_bytes(fixed))
            }
            kind => {
                return Err(Fault::new(format!(
                    "field {number} is of wire type {kind}, which is not taken"
                )));
            }
        };
        Ok(Some(Field { number, value }))
    }

    /// The next number.
    pub(crate) fn number(&mut self) -> Result<u64, Fault> {
        match varint::read(self.rest) {
            Varint::Whole(value, length) => {
                self.rest = &self.rest[length..];
                Ok(value)
            }
            Varint::Cut => Err(Fault::new("it ends inside a number")),
            Varint::TooLong => Err(Fault::new("a number does not fit into 64 bits")),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Fault> {
        match usize::try_from(length)
            .ok()
            .and_then(|length| self.rest.split_at_checked(length))
        {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(Fault::new(format!(
                "a field of {length} bytes begins {} bytes before the end",
                self.rest.len()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some_cid() -> impl Strategy<Value = Cid> {
        any::<[u8; 32]>().prop_map(|digest| {
            let mut binary = vec![1, 0x55, 0x12, 32];
            binary.extend(digest);
            Cid::from_bytes(&binary).expect("valid")
        })
    }

    fn node() -> impl Strategy<Value = Node> {
        let link = (some_cid(), proptest::collection::vec(any::<u8>(), 0..200), any::<u64>()).prop_map(
            |(cid, name, tsize)| Link {
                cid,
                name: name.into(),
                tsize,
            },
        );
        let data = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from));
        (proptest::collection::vec(link, 0..10), data).prop_map(|(links, data)| Node { links, data })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(node in node()) {
            let encoded = Bytes::from(node.encode());
            prop_assert_eq!(Node::decode(&encoded), Ok(node.clone()));
            let links = node.links.iter().map(|link| written_link(link.cid.to_bytes().len(), link.name.len(), link.tsize));
            let data = node.data.as_ref().map_or(0, |data| written_data(data.len()));
            prop_assert_eq!(links.sum::<usize>() + data, encoded.len());
        }

        #[test]
        fn a_cut_node_is_refused_or_shorter(node in node(), at in any::<proptest::sample::Index>()) {
            let encoded = Bytes::from(node.encode());
            if !encoded.is_empty() {
                let cut = encoded.slice(..at.index(encoded.len()));
                if let Ok(decoded) = Node::decode(&cut) {
                    prop_assert!(decoded.links.len() < node.links.len() || decoded.data.is_none());
                }
            }
        }
    }

    #[test]
    fn what_kubo_refuses_is_refused() {
        let link = [0x12, 6, 0x0a, 4, 1, 0x55, 0, 0];
        let data = [0x0a, 1, 7];
        let refused = |bytes: &[u8]| match Node::decode(&Bytes::copy_from_slice(bytes)) {
            Err(Fault::Malformed(reason)) => reason,
            other => panic!("{other:?}"),
        };
        assert!(Node::decode(&Bytes::from([&data[..], &link, &link].concat())).is_ok());
        assert!(Node::decode(&Bytes::from([&link[..], &link, &data].concat())).is_ok());
        assert!(refused(&[&link[..], &data, &link].concat()).contains("before and behind"));
        assert!(refused(&[&data[..], &data].concat()).contains("twice"));
        assert!(refused(&[0x1a, 0]).contains("field 3 of a node"));
        assert!(refused(&[0x08, 0]).contains("field 1 of a node"));
        assert!(refused(&[0x12, 2, 0x12, 0]).contains("no CID"));
        assert!(refused(&[0x12, 8, 0x12, 0, 0x0a, 4, 1, 0x55, 0, 0]).contains("field 1 of a link is repeated"));
        assert!(refused(&[0x12, 8, 0x0a, 4, 1, 0x55, 0, 0, 0x20, 0]).contains("field 4 of a link"));
        assert!(refused(&[0x0a, 5, 1]).contains("5 bytes"));
        assert!(refused(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).contains("bytes begins"));
        assert!(refused(&[0x0b]).contains("wire type 3"));
    }
}
