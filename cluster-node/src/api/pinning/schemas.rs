//! The schemas of what is answered and sent, with the bounds of the specification. A test holds them against the types.

use node_core::PinningStatus;
use serde_json::{Value, json};

use super::super::rest::schemas::CID;
use super::super::routing::{object, reference};
use super::body::NAME_CHARS_MAX;
use crate::service::PINNING_PAGE_MAX;

/// A request ID: a UUID, or of a pin that another API made its CID.
pub fn request_id() -> Value {
    let uuid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
    let cid = CID.trim_start_matches("^(").trim_end_matches(")$");
    json!({ "type": "string", "pattern": format!("^({uuid}|({cid})([.][0-9a-f]+)?)$") })
}

/// All schemas by name.
pub fn schemas() -> Value {
    let text = || json!({ "type": "string" });
    let texts = |least: usize, most: usize| json!({ "type": "array", "items": text(), "uniqueItems": true, "minItems": least, "maxItems": most });
    let pairs = || json!({ "type": "object", "additionalProperties": text() });
    let results = json!({
        "type": "array", "items": reference("PinStatus"), "uniqueItems": true, "minItems": 0, "maxItems": PINNING_PAGE_MAX,
    });
    let reason = object(&[("reason", text())], &[("details", text())]);
    json!({
        "PinResults": object(&[
            ("count", json!({ "type": "integer", "format": "int32", "minimum": 0 })), ("results", results),
        ], &[]),
        "PinStatus": object(&[
            ("requestid", request_id()), ("status", reference("Status")),
            ("created", json!({ "type": "string", "format": "date-time" })), ("pin", reference("Pin")),
            // Empty only while no node has told where it is reached.
            ("delegates", texts(0, 20)),
        ], &[("info", pairs())]),
        "Pin": object(&[("cid", json!({ "type": "string", "pattern": CID }))], &[
            ("name", json!({ "type": "string", "maxLength": NAME_CHARS_MAX })), ("origins", texts(0, 20)),
            ("meta", reference("PinMeta")),
        ]),
        "PinMeta": pairs(),
        "Status": json!({ "type": "string", "enum": PinningStatus::ALL.map(PinningStatus::as_str) }),
        "Failure": object(&[("error", reason)], &[]),
        "Token": object(&[("token", text())], &[]),
        "Document": json!({ "type": "object" }),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::super::types::{Pin, PinResults, PinStatus, Token};
    use super::*;

    fn shown<T: serde::Serialize>(value: &T) -> Value {
        serde_json::to_value(value).expect("it is JSON")
    }

    fn pin(with: bool) -> Pin {
        Pin {
            cid: "bafy".into(),
            name: if with { "site".into() } else { String::new() },
            origins: if with { vec!["/ip4/1.2.3.4".into()] } else { Vec::new() },
            meta: if with {
                BTreeMap::from([("a".into(), "b".into())])
            } else {
                BTreeMap::new()
            },
        }
    }

    fn status(with: bool) -> PinStatus {
        PinStatus {
            requestid: "1".into(),
            status: "queued",
            created: "2026-05-11T10:20:30.000000000Z".into(),
            pin: pin(with),
            delegates: Vec::new(),
            info: BTreeMap::from([("status_details", "waits".into())]),
        }
    }

    #[test]
    fn what_is_answered_has_the_fields_of_its_schema() {
        let all = schemas();
        for (name, value) in [
            ("Pin", shown(&pin(true))),
            ("Pin", shown(&pin(false))),
            ("PinStatus", shown(&status(true))),
            (
                "PinResults",
                shown(&PinResults {
                    count: 1,
                    results: vec![status(false)],
                }),
            ),
            ("Token", shown(&Token { token: "t".into() })),
        ] {
            let fields: BTreeSet<&str> = value
                .as_object()
                .expect("an object")
                .keys()
                .map(String::as_str)
                .collect();
            let schema = &all[name];
            let known = schema["properties"].as_object().expect("properties");
            assert!(
                fields.iter().all(|field| known.contains_key(*field)),
                "{name}: {fields:?}"
            );
            for required in schema["required"].as_array().expect("a list") {
                assert!(
                    fields.contains(required.as_str().expect("a text")),
                    "{name}: {required}"
                );
            }
        }
    }
}
