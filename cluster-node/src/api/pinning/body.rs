//! A pin as a client sends it.

use std::collections::BTreeMap;

use cluster_http::{Failure, Whole};
use http::HeaderMap;
use node_core::{Cid, Invalid, limits};
use serde_json::{Map, Value};

use super::super::rest::options::origin;
use super::failures::failure;
use crate::service::Error;

/// Characters of a name.
pub const NAME_CHARS_MAX: usize = 255;

/// Bytes of an idempotency key. It is hashed, so this only keeps nonsense out.
const IDEMPOTENCY_KEY_MAX: usize = 255;

/// What is asked to be pinned.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Recursively.
    pub cid: Cid,
    /// Free text.
    pub name: String,
    /// Multiaddrs of nodes that have it.
    pub origins: Vec<String>,
    /// Pairs to find it by.
    pub metadata: BTreeMap<String, String>,
}

/// Reads a pin. Fields that are not known are passed over; `null` counts as absent.
pub fn read(body: &Whole) -> Result<Wanted, Failure> {
    let value: Value = body.json().map_err(|error| {
        let words =
            format!("the body is no JSON ({error}): send an object such as {{\"cid\":\"bafy…\",\"name\":\"…\"}}");
        Failure::bad(words)
    })?;
    let Value::Object(mut fields) = value else {
        return Err(Failure::bad(
            "the body is no JSON object: send one such as {\"cid\":\"bafy…\"}",
        ));
    };
    let cid = read_cid(&mut fields)?;
    let name = match take(&mut fields, "name") {
        None => String::new(),
        Some(Value::String(name)) => name,
        Some(other) => return Err(invalid("name", &other, "it must be a text")),
    };
    check_name("name", &name)?;
    Ok(Wanted {
        cid,
        name,
        origins: read_origins(&mut fields)?,
        metadata: read_metadata("meta", take(&mut fields, "meta"))?,
    })
}

fn take(fields: &mut Map<String, Value>, key: &str) -> Option<Value> {
    fields.remove(key).filter(|value| !value.is_null())
}

fn read_cid(fields: &mut Map<String, Value>) -> Result<Cid, Failure> {
    match take(fields, "cid") {
        Some(Value::String(text)) => text.parse().map_err(|error: node_core::CidError| failure(error.into())),
        Some(other) => Err(invalid("cid", &other, "it must be a text")),
        None => Err(failure(Error::invalid(
            "cid",
            "",
            "it is missing: name the CID that is to be pinned",
        ))),
    }
}

/// A name has a bound in characters here; bytes are bounded further below.
pub fn check_name(field: &str, name: &str) -> Result<(), Failure> {
    let chars = name.chars().count();
    if chars > NAME_CHARS_MAX {
        let remedy = format!("it has {chars} characters, at most {NAME_CHARS_MAX} are taken");
        return Err(failure(Error::invalid(field, name, remedy)));
    }
    Ok(())
}

/// Hints where the content may be had. A Kubo with many addresses sends more of them than the specification allows, and they
/// are hints: what is more than is kept is left out.
fn read_origins(fields: &mut Map<String, Value>) -> Result<Vec<String>, Failure> {
    let given = match take(fields, "origins") {
        None => return Ok(Vec::new()),
        Some(Value::Array(given)) => given,
        Some(other) => return Err(invalid("origins", &other, "it must be a list of multiaddrs")),
    };
    let mut origins: Vec<String> = Vec::new();
    for entry in given {
        let Value::String(text) = &entry else {
            return Err(invalid("origins", &entry, "each must be a text"));
        };
        let address = origin(text);
        if !origins.contains(&address) && origins.len() < limits::ORIGINS {
            origins.push(address);
        }
    }
    Ok(origins)
}

/// Pairs of texts.
pub fn read_metadata(field: &str, value: Option<Value>) -> Result<BTreeMap<String, String>, Failure> {
    let fields = match value {
        None => return Ok(BTreeMap::new()),
        Some(Value::Object(fields)) => fields,
        Some(other) => {
            return Err(invalid(
                field,
                &other,
                "it must be an object of texts, such as {\"app\":\"x\"}",
            ));
        }
    };
    let pairs = fields.into_iter().map(|(key, value)| match value {
        Value::String(value) => Ok((key, value)),
        other => Err(invalid(&format!("{field}.{key}"), &other, "it must be a text")),
    });
    pairs.collect()
}

fn invalid(field: &str, value: &Value, remedy: &str) -> Failure {
    let invalid = Invalid::new(field.chars().take(80).collect::<String>(), value.to_string(), remedy);
    failure(invalid.into())
}

/// What the client names its request by, if it does.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let refused = || {
        let value = String::from_utf8_lossy(value.as_bytes());
        failure(Error::invalid(
            "Idempotency-Key",
            value,
            "use 1 to 255 characters of ASCII, such as a UUID, another one for each request",
        ))
    };
    let text = value.to_str().map_err(|_| refused())?;
    if text.is_empty() || text.len() > IDEMPOTENCY_KEY_MAX {
        return Err(refused());
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CID: &str = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
    const PEER: &str = "12D3KooWBhV9dp6GQkvFYdvCpwWkRxgnYC4UHPBGtKaqxbxn3Kmr";

    fn wanted(text: &str) -> Result<Wanted, Failure> {
        read(&Whole(text.as_bytes().to_vec().into()))
    }

    #[test]
    fn a_pin_is_read_and_what_is_unknown_is_passed_over() {
        let text = format!(
            "{{\"cid\":\"{CID}\",\"name\":\"my site\",\"meta\":{{\"app\":\"x\"}},\"extra\":[1],\
             \"origins\":[\"/ip4/1.2.3.4/tcp/4001/ipfs/{PEER}\",\"/ip4/1.2.3.4/tcp/4001/p2p/{PEER}\"]}}"
        );
        let wanted_pin = wanted(&text).expect("valid");
        assert_eq!(wanted_pin.cid.to_string(), CID);
        assert_eq!(wanted_pin.name, "my site");
        assert_eq!(
            wanted_pin.metadata,
            BTreeMap::from([("app".to_owned(), "x".to_owned())])
        );
        // Both spellings are one address.
        assert_eq!(wanted_pin.origins, [format!("/ip4/1.2.3.4/tcp/4001/p2p/{PEER}")]);
        let bare = wanted(&format!(
            "{{\"cid\":\"{CID}\",\"name\":null,\"origins\":null,\"meta\":null}}"
        ));
        let bare = bare.expect("valid");
        assert!(bare.name.is_empty() && bare.origins.is_empty() && bare.metadata.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("", "no JSON"),
            ("[]", "no JSON object"),
            ("{}", "cid"),
            ("{\"cid\":null}", "cid"),
            ("{\"cid\":7}", "cid"),
            ("{\"cid\":\"abcd\"}", "abcd"),
            ("{\"cid\":\"CID\",\"name\":7}", "name"),
            ("{\"cid\":\"CID\",\"meta\":[]}", "meta"),
            ("{\"cid\":\"CID\",\"meta\":{\"app\":7}}", "meta.app"),
            ("{\"cid\":\"CID\",\"origins\":\"x\"}", "origins"),
            ("{\"cid\":\"CID\",\"origins\":[7]}", "origins"),
        ] {
            let failure = wanted(&text.replace("CID", CID)).expect_err(text);
            assert_eq!(failure.status.as_u16(), 400, "{text}");
            assert!(failure.message.contains(words), "{text}: {}", failure.message);
        }
    }

    #[test]
    fn names_are_bounded_in_characters() {
        let named = |name: &str| wanted(&format!("{{\"cid\":\"{CID}\",\"name\":\"{name}\"}}"));
        assert!(named(&"ä".repeat(255)).is_ok());
        let failure = named(&"a".repeat(256)).expect_err("too long");
        assert!(
            failure.message.contains("255") && failure.message.len() < 300,
            "{}",
            failure.message
        );
    }

    #[test]
    fn requests_have_names_of_ascii() {
        let mut headers = HeaderMap::new();
        assert_eq!(idempotency_key(&headers), Ok(None));
        headers.insert("idempotency-key", "a-1".parse().expect("a value"));
        assert_eq!(idempotency_key(&headers), Ok(Some("a-1")));
        for bad in ["", &"a".repeat(256), "ä"] {
            headers.insert(
                "idempotency-key",
                http::HeaderValue::from_bytes(bad.as_bytes()).expect("a value"),
            );
            assert!(idempotency_key(&headers).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_body_does_harm(text in any::<String>()) {
            prop_assert!(wanted(&text).is_err());
        }
    }
}
