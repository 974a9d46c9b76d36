//! The schemas of what is answered and sent. A test holds them against the types.

use serde_json::{Value, json};

use super::super::routing::{object, reference};

/// A CID of version 0, or of version 1 in base32. Others are taken too; answered are only these.
pub const CID: &str = "^(Qm[1-9A-HJ-NP-Za-km-z]{44}|b[a-z2-7]{20,})$";

/// A peer ID in base58: a key, or a digest of one.
pub const PEER_ID: &str = "^(12D3KooW|Qm)[1-9A-HJ-NP-Za-km-z]{44}$";

/// What a pair of metadata is called in a query.
pub const PROPERTY_NAMES: &str = "^meta-.+$";

/// All schemas by name.
pub fn schemas() -> Value {
    let text = || json!({ "type": "string" });
    let int = || json!({ "type": "integer" });
    let flag = || json!({ "type": "boolean" });
    let time = || json!({ "type": "string", "format": "date-time" });
    let count = || json!({ "type": "integer", "minimum": 0 });
    let cid = || json!({ "type": "string", "pattern": CID });
    let maybe_cid = || json!({ "type": ["string", "null"], "pattern": CID });
    let texts = || json!({ "type": "array", "items": { "type": "string" } });
    let text_map = || json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let map = |of: &str| json!({ "type": "object", "additionalProperties": reference(of) });
    json!({
        "Error": object(&[("code", json!({ "type": "integer", "minimum": 300, "maximum": 599 })), ("message", text())], &[]),
        "Pin": object(&[
            ("replication_factor_min", int()), ("replication_factor_max", int()), ("name", text()),
            ("mode", json!({ "enum": ["recursive", "direct"] })), ("shard_size", count()),
            ("user_allocations", texts()), ("expire_at", time()), ("metadata", text_map()), ("pin_update", maybe_cid()),
            ("origins", texts()), ("cid", cid()), ("type", json!({ "enum": ["pin"] })), ("allocations", texts()),
            ("max_depth", int()), ("reference", maybe_cid()), ("timestamp", time()),
        ], &[]),
        "GlobalPinInfo": object(&[
            ("cid", cid()), ("name", text()), ("allocations", texts()), ("origins", texts()), ("created", time()),
            ("metadata", text_map()), ("peer_map", map("PinInfoShort")),
        ], &[]),
        "PinInfoShort": object(&[
            ("peername", text()), ("status", text()), ("timestamp", time()), ("error", text()), ("attempt_count", count()),
            ("priority_pin", flag()),
        ], &[("ipfs_peer_id", text()), ("ipfs_peer_addresses", texts())]),
        "ID": object(&[
            ("id", text()), ("addresses", texts()), ("cluster_peers", texts()), ("cluster_peers_addresses", texts()),
            ("version", text()), ("commit", text()), ("rpc_protocol_version", text()), ("error", text()),
            ("ipfs", reference("IPFSID")), ("peername", text()),
        ], &[]),
        "IPFSID": object(&[("addresses", texts()), ("error", text())], &[("id", text())]),
        "Version": object(&[("version", text())], &[]),
        "ConnectGraph": object(&[
            ("cluster_id", text()), ("id_to_peername", text_map()),
            ("ipfs_links", json!({ "type": "object", "additionalProperties": texts() })),
            ("cluster_links", json!({ "type": "object", "additionalProperties": texts() })),
            ("cluster_trust_links", json!({ "type": "object", "additionalProperties": flag() })),
            ("cluster_to_ipfs", text_map()),
        ], &[]),
        "MetricName": text(),
        "Metric": object(&metric(), &[]),
        "Alert": object(&[metric().as_slice(), &[("triggered_at", time())]].concat(), &[]),
        "BandwidthByProtocol": map("Bandwidth"),
        "Bandwidth": object(&[
            ("total_in", int()), ("total_out", int()), ("rate_in", json!({ "type": "number" })),
            ("rate_out", json!({ "type": "number" })),
        ], &[]),
        "GlobalRepoGC": object(&[("peer_map", map("RepoGC"))], &[]),
        "RepoGC": object(&[
            ("peer", text()), ("peername", text()),
            ("keys", json!({ "type": "array", "items": reference("IPFSRepoGC") })),
        ], &[("error", text())]),
        "IPFSRepoGC": object(&[("key", maybe_cid())], &[("error", text())]),
        "AddedOutput": object(&[("name", text()), ("cid", maybe_cid())], &[
            ("bytes", count()), ("size", count()), ("allocations", texts()),
        ]),
        "Token": object(&[("token", text())], &[]),
        "PeerAdd": object(&[("peer_id", json!({ "type": "string", "pattern": PEER_ID }))], &[]),
        "Document": { "type": "object", "required": ["openapi", "info", "paths"] },
    })
}

fn metric() -> Vec<(&'static str, Value)> {
    let int = || json!({ "type": "integer" });
    let text = || json!({ "type": "string" });
    let flag = || json!({ "type": "boolean" });
    vec![
        ("name", text()),
        ("peer", text()),
        ("value", text()),
        ("expire", int()),
        ("valid", flag()),
        ("weight", int()),
        ("partitionable", flag()),
        ("received_at", int()),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde::Serialize;

    use super::super::types::{
        AddedOutput, Alert, Bandwidth, ConnectGraph, GlobalRepoGc, Id, IpfsId, IpfsRepoGc, Metric, Pin, RepoGc, Token,
        Version,
    };
    use super::*;

    fn keys(value: &Value) -> BTreeSet<String> {
        value.as_object().expect("an object").keys().cloned().collect()
    }

    /// The schema names exactly what a full value has, and requires exactly what an empty one has.
    fn agrees<T: Serialize>(schema: &str, full: &T, bare: &T) {
        let schemas = schemas();
        let described = &schemas[schema];
        let required = described["required"].as_array().expect("required");
        let required = required
            .iter()
            .map(|name| name.as_str().expect("text").to_owned())
            .collect();
        let written = |value: &T| keys(&serde_json::to_value(value).expect("JSON"));
        assert_eq!(keys(&described["properties"]), written(full), "{schema}");
        assert_eq!(written(bare), required, "{schema}: what is always there");
    }

    fn both<T: Serialize>(schema: &str, value: &T) {
        agrees(schema, value, value);
    }

    fn metric() -> Metric {
        Metric {
            name: "ping".into(),
            peer: "Qm".into(),
            value: String::new(),
            expire: 1,
            valid: true,
            weight: 0,
            partitionable: false,
            received_at: 1,
        }
    }

    #[test]
    fn schemas_are_those_of_the_types() {
        let text = || "x".to_owned();
        both(
            "Pin",
            &Pin {
                replication_factor_min: 1,
                replication_factor_max: 1,
                name: String::new(),
                mode: "recursive",
                shard_size: 0,
                user_allocations: Vec::new(),
                expire_at: text(),
                metadata: BTreeMap::new(),
                pin_update: None,
                origins: Vec::new(),
                cid: text(),
                kind: "pin",
                allocations: Vec::new(),
                max_depth: -1,
                reference: None,
                timestamp: text(),
            },
        );
        let ipfs = |id| IpfsId {
            id,
            addresses: Vec::new(),
            error: String::new(),
        };
        agrees("IPFSID", &ipfs(Some(text())), &ipfs(None));
        both(
            "ID",
            &Id {
                id: text(),
                addresses: Vec::new(),
                cluster_peers: Vec::new(),
                cluster_peers_addresses: Vec::new(),
                version: "1",
                commit: "",
                rpc_protocol_version: "",
                error: String::new(),
                ipfs: ipfs(None),
                peername: text(),
            },
        );
        both("Version", &Version { version: "1" });
        both("ConnectGraph", &ConnectGraph::default());
        both("Metric", &metric());
        let alert = Alert {
            metric: metric(),
            triggered_at: text(),
        };
        both("Alert", &alert);
        both("Bandwidth", &Bandwidth::default());
        both("GlobalRepoGC", &GlobalRepoGc::default());
        let gc = RepoGc {
            error: text(),
            ..RepoGc::default()
        };
        agrees("RepoGC", &gc, &RepoGc::default());
        let key = |error| IpfsRepoGc { key: None, error };
        agrees("IPFSRepoGC", &key(text()), &key(String::new()));
        let added = AddedOutput {
            bytes: 1,
            size: 1,
            allocations: vec![text()],
            ..AddedOutput::default()
        };
        agrees("AddedOutput", &added, &AddedOutput::default());
        both("Token", &Token { token: text() });
    }
}
