//! Blocks as values of the IPLD data model, to be shown in another codec than they are stored in.
//!
//! Links of a block are found without this ([`crate::links`]), in blocks of any size; here a whole block is held as a tree,
//! which takes some twenty times its bytes. So this is for who looks at single blocks: `dag get` and `dag put`.

use std::collections::BTreeMap;

use bytes::Bytes;
pub use ipld_core::ipld::Ipld as Value;
use multibase::Base;
use node_core::Cid;
use serde_json::Value as Json;

use crate::codec::{DAG_CBOR, DAG_JSON, DAG_PB, RAW, pb};
use crate::{BLOCK_BYTES_MAX, DagError};

/// Maps and lists that may lie in each other: what the decoders below take at most (serde_json 128, dag-cbor 256).
const DEPTH_MAX: usize = 256;

/// Why a block is no value, or a value no block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{codec}: {reason}")]
pub struct ValueError {
    codec: &'static str,
    reason: String,
}

fn failed(codec: &'static str, reason: impl std::fmt::Display) -> ValueError {
    let reason = reason.to_string();
    ValueError {
        codec,
        reason: reason.chars().take(300).collect(),
    }
}

/// The code of a codec that values can be read from and written in, by its name of the multicodec table.
pub fn codec(name: &str) -> Option<u64> {
    match name {
        "raw" => Some(RAW),
        "dag-pb" | "protobuf" => Some(DAG_PB),
        "dag-cbor" | "cbor" => Some(DAG_CBOR),
        "dag-json" | "json" => Some(DAG_JSON),
        _ => None,
    }
}

/// Reads bytes of a codec.
///
/// # Errors
/// For a codec that is not known here, bytes that are not of it, more than a block may hold, and maps or lists that lie too
/// deep in each other.
pub fn decode(codec: u64, bytes: &Bytes) -> Result<Value, ValueError> {
    if bytes.len() > BLOCK_BYTES_MAX {
        return Err(failed("block", format!("it is longer than {BLOCK_BYTES_MAX} bytes")));
    }
    match codec {
        RAW => Ok(Value::Bytes(bytes.to_vec())),
        DAG_PB => read_pb(bytes),
        DAG_CBOR => serde_ipld_dagcbor::from_slice(bytes).map_err(|error| failed("dag-cbor", error)),
        DAG_JSON => {
            let json: Json = serde_json::from_slice(bytes).map_err(|error| failed("dag-json", error))?;
            from_json(json)
        }
        code => Err(failed(
            "codec",
            format!("0x{code:x} is none of raw, dag-pb, dag-cbor and dag-json"),
        )),
    }
}

/// Writes a value in a codec.
///
/// # Errors
/// For a value that the codec can't express: raw holds bytes only, dag-pb only its own form.
pub fn encode(codec: u64, value: &Value) -> Result<Vec<u8>, ValueError> {
    match codec {
        RAW => match value {
            Value::Bytes(bytes) => Ok(bytes.clone()),
            _ => Err(failed("raw", "only bytes are written raw")),
        },
        DAG_PB => write_pb(value),
        DAG_CBOR => serde_ipld_dagcbor::to_vec(value).map_err(|error| failed("dag-cbor", error)),
        DAG_JSON => {
            let json = to_json(value, 0)?;
            serde_json::to_vec(&json).map_err(|error| failed("dag-json", error))
        }
        code => Err(failed(
            "codec",
            format!("0x{code:x} is none of raw, dag-pb, dag-cbor and dag-json"),
        )),
    }
}

/// Follows a path inside a value: keys of maps, numbers of lists. What is left of it behind a link is answered with the link.
///
/// # Errors
/// When nothing stands there.
pub fn step<'a, 'p>(value: &'a Value, path: &'p [String]) -> Result<(&'a Value, &'p [String]), ValueError> {
    let (mut value, mut rest) = (value, path);
    while let [name, below @ ..] = rest {
        let next = match value {
            Value::Map(map) => map.get(name),
            Value::List(list) => name.parse::<usize>().ok().and_then(|at| list.get(at)),
            Value::Link(_) => break,
            _ => None,
        };
        let shown: String = name.chars().take(80).collect();
        value = next.ok_or_else(|| failed("path", format!("there is nothing at {shown:?}")))?;
        rest = below;
    }
    Ok((value, rest))
}

/// The CID of a link.
///
/// # Errors
/// Never for links that were decoded here.
pub fn cid_of(link: &ipld_core::cid::Cid) -> Result<Cid, ValueError> {
    Cid::from_bytes(&link.to_bytes()).map_err(|error| failed("link", error))
}

fn link_to(cid: &Cid) -> Result<Value, ValueError> {
    // Digests of more than 64 bytes, which only identity CIDs have, have no place in the data model's library.
    let cid = ipld_core::cid::Cid::try_from(cid.to_bytes()).map_err(|error| failed("link", error))?;
    Ok(Value::Link(cid))
}

fn read_pb(bytes: &Bytes) -> Result<Value, ValueError> {
    let unnamed = Cid::from_bytes(&[1, 0x70, 0, 0]).map_err(|error| failed("dag-pb", error))?;
    let node = pb::Node::decode(bytes).map_err(|fault| match fault.of(&unnamed, "dag-pb") {
        DagError::Malformed { reason, .. } => failed("dag-pb", reason),
        other => failed("dag-pb", other),
    })?;
    let links = node.links.iter().map(|link| {
        let name = String::from_utf8_lossy(&link.name).into_owned();
        Ok(Value::Map(BTreeMap::from([
            ("Hash".to_owned(), link_to(&link.cid)?),
            ("Name".to_owned(), Value::String(name)),
            ("Tsize".to_owned(), Value::Integer(i128::from(link.tsize))),
        ])))
    });
    let mut map = BTreeMap::from([("Links".to_owned(), Value::List(links.collect::<Result<_, _>>()?))]);
    if let Some(data) = node.data {
        map.insert("Data".to_owned(), Value::Bytes(data.to_vec()));
    }
    Ok(Value::Map(map))
}

fn write_pb(value: &Value) -> Result<Vec<u8>, ValueError> {
    let refused = || {
        failed(
            "dag-pb",
            "a node is {\"Data\": bytes, \"Links\": [{\"Hash\": link, \"Name\": text, \"Tsize\": number}]} and nothing else",
        )
    };
    let Value::Map(map) = value else { return Err(refused()) };
    if map.keys().any(|key| key != "Data" && key != "Links") {
        return Err(refused());
    }
    let mut out = Vec::new();
    match map.get("Links") {
        None => {}
        Some(Value::List(links)) => {
            let mut read = Vec::with_capacity(links.len());
            for link in links {
                let Value::Map(link) = link else { return Err(refused()) };
                let Some(Value::Link(cid)) = link.get("Hash") else {
                    return Err(refused());
                };
                let name = match link.get("Name") {
                    None | Some(Value::Null) => "",
                    Some(Value::String(name)) => name,
                    Some(_) => return Err(refused()),
                };
                let tsize = match link.get("Tsize") {
                    None | Some(Value::Null) => 0,
                    Some(Value::Integer(size)) => u64::try_from(*size).map_err(|_| refused())?,
                    Some(_) => return Err(refused()),
                };
                read.push((name, cid_of(cid)?, tsize));
            }
            // The codec's order; names that are the same keep theirs.
            read.sort_by_key(|(name, ..)| *name);
            for (name, cid, tsize) in read {
                pb::write_link(&mut out, &cid, &[name.as_bytes()], tsize);
            }
        }
        Some(_) => return Err(refused()),
    }
    match map.get("Data") {
        None => {}
        Some(Value::Bytes(data)) => pb::write_data(&mut out, &[data]),
        Some(_) => return Err(refused()),
    }
    Ok(out)
}

/// A link is `{"/": "CID"}`, bytes are `{"/": {"bytes": "…"}}` in Base64 without padding.
fn from_json(json: Json) -> Result<Value, ValueError> {
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(flag),
        Json::String(text) => Value::String(text),
        Json::Number(number) => {
            let whole = number
                .as_i64()
                .map(i128::from)
                .or_else(|| number.as_u64().map(i128::from));
            match (whole, number.as_f64()) {
                (Some(whole), _) => Value::Integer(whole),
                (None, Some(float)) => Value::Float(float),
                (None, None) => return Err(failed("dag-json", format!("{number} is out of range"))),
            }
        }
        Json::Array(items) => Value::List(items.into_iter().map(from_json).collect::<Result<_, _>>()?),
        Json::Object(map) => {
            if let (Some(only), 1) = (map.get("/"), map.len()) {
                return reserved(only);
            }
            let entries = map.into_iter().map(|(key, value)| Ok((key, from_json(value)?)));
            Value::Map(entries.collect::<Result<_, _>>()?)
        }
    })
}

fn reserved(inside: &Json) -> Result<Value, ValueError> {
    match inside {
        Json::String(cid) => {
            let cid: Cid = cid.parse().map_err(|error| failed("dag-json", error))?;
            link_to(&cid)
        }
        Json::Object(map) if map.len() == 1 => match map.get("bytes") {
            Some(Json::String(text)) => {
                let text = text.trim_end_matches('=');
                let bytes = Base::Base64.decode(text).map_err(|error| failed("dag-json", error))?;
                Ok(Value::Bytes(bytes))
            }
            _ => Err(failed("dag-json", "{\"/\": {…}} holds bytes and nothing else")),
        },
        _ => Err(failed("dag-json", "{\"/\": …} is a link, or bytes")),
    }
}

fn to_json(value: &Value, depth: usize) -> Result<Json, ValueError> {
    if depth > DEPTH_MAX {
        return Err(failed("dag-json", "maps and lists lie too deep in each other"));
    }
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(flag) => Json::Bool(*flag),
        Value::String(text) => Json::String(text.clone()),
        Value::Integer(whole) => match (i64::try_from(*whole), u64::try_from(*whole)) {
            (Ok(whole), _) => whole.into(),
            (Err(_), Ok(whole)) => whole.into(),
            _ => return Err(failed("dag-json", format!("{whole} is out of range"))),
        },
        Value::Float(float) => serde_json::Number::from_f64(*float)
            .map(Json::Number)
            .ok_or_else(|| failed("dag-json", format!("{float} is no number of JSON")))?,
        Value::Bytes(bytes) => serde_json::json!({ "/": { "bytes": Base::Base64.encode(bytes) } }),
        Value::Link(cid) => serde_json::json!({ "/": cid_of(cid)?.to_string() }),
        Value::List(items) => {
            let items = items.iter().map(|item| to_json(item, depth + 1));
            Json::Array(items.collect::<Result<_, _>>()?)
        }
        Value::Map(map) => {
            if map.contains_key("/") && map.len() == 1 {
                return Err(failed(
                    "dag-json",
                    "a map of nothing but \"/\" can't be told from a link",
                ));
            }
            let entries = map
                .iter()
                .map(|(key, value)| Ok((key.clone(), to_json(value, depth + 1)?)));
            Json::Object(entries.collect::<Result<_, _>>()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CID: &str = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";

    fn json(text: &str) -> Result<Value, ValueError> {
        decode(DAG_JSON, &Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn values_go_from_codec_to_codec() {
        let text = format!(
            r#"{{"a":[1,-2,1.5,null,true,"x"],"b":{{"/":{{"bytes":"AQI"}}}},"link":{{"/":"{CID}"}},"long":18446744073709551615}}"#
        );
        let value = json(&text).expect("dag-json");
        let cbor = encode(DAG_CBOR, &value).expect("dag-cbor");
        let back = decode(DAG_CBOR, &cbor.into()).expect("dag-cbor");
        assert_eq!(back, value);
        assert_eq!(encode(DAG_JSON, &back).expect("dag-json"), text.as_bytes());
    }

    #[test]
    fn nodes_of_dag_pb_are_read_and_written() {
        let text = format!(
            r#"{{"Data":{{"/":{{"bytes":"CAE"}}}},"Links":[{{"Hash":{{"/":"{CID}"}},"Name":"a","Tsize":7}},{{"Hash":{{"/":"{CID}"}},"Name":"b","Tsize":0}}]}}"#
        );
        let block = encode(DAG_PB, &json(&text).expect("dag-json")).expect("dag-pb");
        let back = decode(DAG_PB, &block.into()).expect("dag-pb");
        assert_eq!(encode(DAG_JSON, &back).expect("dag-json"), text.as_bytes());
        for bad in [r#"{"Data":"x"}"#, r#"{"More":1}"#, r#"{"Links":[1]}"#, "[]"] {
            encode(DAG_PB, &json(bad).expect("dag-json")).expect_err(bad);
        }
    }

    #[test]
    fn paths_end_at_links() {
        let value = json(&format!(r#"{{"a":[{{"b":{{"/":"{CID}"}}}}]}}"#)).expect("dag-json");
        let path: Vec<String> = ["a", "0", "b", "c"].map(str::to_owned).to_vec();
        let (found, rest) = step(&value, &path).expect("a link");
        assert!(matches!(found, Value::Link(_)));
        assert_eq!(rest, ["c"]);
        step(&value, &["x".to_owned()]).expect_err("nothing there");
        step(&value, &["a".to_owned(), "7".to_owned()]).expect_err("nothing there");
    }

    #[test]
    fn what_is_hostile_is_an_error() {
        for bad in ["", "{", r#"{"/":"no cid"}"#, r#"{"/":1}"#, r#"{"/":{"bytes":"*"}}"#] {
            json(bad).expect_err(bad);
        }
        json(&format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000))).expect_err("deep");
        let mut deep = vec![0x81_u8; 100_000];
        deep.push(1);
        decode(DAG_CBOR, &deep.into()).expect_err("deep");
        assert!(decode(0x78, &Bytes::new()).is_err());
        encode(RAW, &Value::Null).expect_err("no bytes");
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes: Vec<u8>) {
            for codec in [RAW, DAG_PB, DAG_CBOR, DAG_JSON] {
                if let Ok(value) = decode(codec, &bytes.clone().into()) {
                    let _ = encode(DAG_JSON, &value);
                    let _ = encode(DAG_CBOR, &value);
                }
            }
        }
    }
}
