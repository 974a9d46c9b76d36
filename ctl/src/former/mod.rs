//! Pinsets of IPFS Cluster: the lines of its `state export`, and its REST API.

pub mod compare;
pub mod fetch;

use std::collections::BTreeMap;

use cluster_proto::v1;
use node_core::{Cid, PeerId, PinMode, Replication, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};

use crate::cli::Sharded;
use crate::output::words;
use crate::spec::{Expiry, Spec, parse_time};

/// How Go writes a time that is not set.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// A line of `state export`, and an object of `GET /allocations`, as IPFS Cluster 1.1.6 writes them. Older versions leave
/// fields out, and wrote CIDs as links and types as numbers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PinLine {
    /// Fewest peers that must take it; -1 for all, 0 for the default.
    #[serde(default)]
    pub replication_factor_min: i32,
    /// Peers that shall hold it.
    #[serde(default)]
    pub replication_factor_max: i32,
    /// Free text.
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    /// `recursive` or `direct`.
    #[serde(default, deserialize_with = "nullable")]
    pub mode: String,
    /// Of an upload in shards.
    #[serde(default)]
    pub shard_size: u64,
    /// Only in the answer to an addition.
    #[serde(default)]
    pub user_allocations: Option<Vec<String>>,
    /// RFC 3339; the year 1 for never.
    #[serde(default, deserialize_with = "nullable")]
    pub expire_at: String,
    /// Pairs.
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, String>>,
    /// What it was made from.
    #[serde(default)]
    pub pin_update: Option<CidText>,
    /// Multiaddrs of who has the content.
    #[serde(default)]
    pub origins: Option<Vec<String>>,
    /// What is pinned.
    pub cid: CidText,
    /// Whether it is a whole pin.
    #[serde(rename = "type", default)]
    pub kind: PinType,
    /// Peers that hold it.
    #[serde(default)]
    pub allocations: Option<Vec<String>>,
    /// 0 for direct, -1 for recursive. The mode is made of it when a pin is read back, so it decides.
    #[serde(default)]
    pub max_depth: Option<i32>,
    /// Of pins that are parts of a sharded upload.
    #[serde(default)]
    pub reference: Option<CidText>,
    /// When it was made.
    #[serde(default, deserialize_with = "nullable")]
    pub timestamp: String,
}

/// A CID as text; read also as IPLD writes a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CidText(pub String);

impl<'de> Deserialize<'de> for CidText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Link {
                #[serde(rename = "/")]
                cid: String,
            },
        }
        let (Form::Text(cid) | Form::Link { cid }) = Form::deserialize(deserializer)?;
        Ok(Self(cid))
    }
}

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum PinType {
    /// A whole pin.
    #[default]
    #[serde(rename = "pin")]
    Pin,
    /// The root of content that was added in shards.
    #[serde(rename = "meta-pin")]
    Meta,
    /// The list of its shards.
    #[serde(rename = "clusterdag-pin")]
    ClusterDag,
    /// One of them.
    #[serde(rename = "shard-pin")]
    Shard,
}

impl<'de> Deserialize<'de> for PinType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Word(String),
            Code(u64),
        }
        match Form::deserialize(deserializer)? {
            Form::Word(word) => match word.as_str() {
                "pin" => Ok(Self::Pin),
                "meta-pin" => Ok(Self::Meta),
                "clusterdag-pin" => Ok(Self::ClusterDag),
                "shard-pin" => Ok(Self::Shard),
                other => Err(serde::de::Error::custom(format!("type {other:?} is unknown"))),
            },
            // Before version 1.0.
            Form::Code(2) => Ok(Self::Pin),
            Form::Code(4) => Ok(Self::Meta),
            Form::Code(8) => Ok(Self::ClusterDag),
            Form::Code(16) => Ok(Self::Shard),
            Form::Code(other) => Err(serde::de::Error::custom(format!("type {other} is unknown"))),
        }
    }
}

fn nullable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// How lines become pins.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Which storage node drives the daemon of which peer.
    pub nodes: BTreeMap<String, String>,
    /// What becomes of sharded content.
    pub sharded: Sharded,
}

/// What becomes of a line.
#[derive(Debug, Clone, PartialEq)]
pub enum Taken {
    /// A pin.
    Pin(Box<v1::BulkPinItem>),
    /// Nothing: its time is over, and only IPFS Cluster had not removed it yet.
    Expired,
    /// Nothing: it is a part of a pin that is taken over as a whole.
    Part,
}

impl Rules {
    /// What a line asks for, or why it can't be taken over. What it does not say is as in `defaults`.
    pub fn take(&self, line: &str, defaults: &Spec, now: Timestamp) -> Result<Taken, String> {
        let line: PinLine =
            serde_json::from_str(line).map_err(|error| format!("not a pin of IPFS Cluster: {error}"))?;
        let is_whole = match (line.kind, self.sharded) {
            (PinType::Pin, _) => true,
            (PinType::Meta, Sharded::Whole) => false,
            (PinType::ClusterDag | PinType::Shard, Sharded::Whole) => return Ok(Taken::Part),
            (_, Sharded::Refuse) => {
                return Err(
                    "a part of content that was added in shards; --sharded whole pins such content as a whole".into(),
                );
            }
        };
        let cid = parse_cid("cid", &line.cid.0)?;
        let expire_at = moment("expire_at", &line.expire_at)?;
        if expire_at.is_some_and(|at| at <= now) {
            return Ok(Taken::Expired);
        }
        let mode = match (line.max_depth, line.mode.as_str()) {
            // The root of sharded content was never pinned itself, so what is said of its depth (it is 0) and mode means
            // nothing: all below it is what was wanted.
            _ if !is_whole => PinMode::Recursive,
            (Some(0), _) | (None, "direct") => PinMode::Direct,
            (Some(-1) | None, _) => PinMode::Recursive,
            (Some(depth), _) => {
                return Err(format!(
                    "max_depth {depth}: only -1 (recursive) and 0 (direct) can be taken over"
                ));
            }
        };
        let mut held_by = Vec::new();
        for peer in line.allocations.iter().flatten() {
            if let Some(node) = self.nodes.get(peer).filter(|node| !held_by.contains(*node)) {
                held_by.push(node.clone());
            }
        }
        let updated_from = match &line.pin_update {
            Some(CidText(from)) if !from.is_empty() => parse_cid("pin_update", from)?.to_string(),
            _ => String::new(),
        };
        let created = moment("timestamp", &line.timestamp)?;
        let spec = Spec {
            name: line.name,
            mode,
            replication: Replication {
                min: line.replication_factor_min,
                max: line.replication_factor_max,
            },
            metadata: line.metadata.unwrap_or_default(),
            origins: line.origins.unwrap_or_default(),
            expiry: expire_at.map(Expiry::At),
            ..defaults.clone()
        };
        spec.check(now).map_err(|error| error.to_string())?;
        let mut item = spec.item(&cid);
        item.former = Some(v1::Former {
            created: created.map(words::proto_time),
            updated_from,
            held_by,
        });
        Ok(Taken::Pin(Box::new(item)))
    }
}

fn parse_cid(field: &str, text: &str) -> Result<Cid, String> {
    text.parse()
        .map_err(|error: node_core::CidError| format!("{field}: {error}"))
}

fn moment(field: &str, text: &str) -> Result<Option<Timestamp>, String> {
    // Go writes an unset time as the year 1.
    if text.is_empty() || text.starts_with("0001-01-01") {
        return Ok(None);
    }
    parse_time(text).map(Some).map_err(|error| format!("{field}: {error}"))
}

/// The line for a pin. `peers` gives the peer ID that each storage node has over there, by the node's name.
pub fn line(pin: &v1::Pin, peers: &BTreeMap<String, PeerId>) -> PinLine {
    let is_direct = pin.mode() == v1::PinMode::Direct;
    let metadata: BTreeMap<_, _> = pin.metadata.clone().into_iter().collect();
    let peer_of = |node: &String| peers.get(node).map(ToString::to_string);
    let nodes = if pin.everywhere { &[][..] } else { &pin.nodes };
    PinLine {
        replication_factor_min: pin.replication_min,
        replication_factor_max: pin.replication_max,
        name: pin.name.clone(),
        mode: if is_direct { "direct" } else { "recursive" }.into(),
        shard_size: 0,
        user_allocations: None,
        expire_at: go_time(pin.expire_at.as_ref()),
        metadata: (!metadata.is_empty()).then_some(metadata),
        pin_update: (!pin.updated_from.is_empty()).then(|| CidText(pin.updated_from.clone())),
        origins: Some(pin.origins.clone()),
        cid: CidText(pin.cid.clone()),
        kind: PinType::Pin,
        allocations: Some(nodes.iter().filter_map(peer_of).collect()),
        max_depth: Some(if is_direct { 0 } else { -1 }),
        reference: None,
        timestamp: go_time(pin.created.as_ref()),
    }
}

/// As Go writes it: without a fraction where there is none, and without zeros at its end.
fn go_time(time: Option<&prost_types::Timestamp>) -> String {
    let Some(text) = words::time(time) else {
        return NEVER.into();
    };
    let (whole, fraction) = text.trim_end_matches('Z').split_once('.').unwrap_or((&text, ""));
    let whole = whole.trim_end_matches('Z');
    match fraction.trim_end_matches('0') {
        "" => format!("{whole}Z"),
        fraction => format!("{whole}.{fraction}Z"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CID: &str = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
    const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    const NOW: Timestamp = Timestamp::from_millis(1_780_000_000_000);

    fn rules(sharded: Sharded) -> Rules {
        Rules {
            nodes: BTreeMap::from([(PEER.to_owned(), "kubo-1".to_owned())]),
            sharded,
        }
    }

    fn take(line: &str) -> Result<Taken, String> {
        rules(Sharded::Refuse).take(line, &Spec::default(), NOW)
    }

    fn taken(line: &str) -> v1::BulkPinItem {
        match take(line) {
            Ok(Taken::Pin(item)) => *item,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn every_field_is_taken_over() {
        let line = format!(
            r#"{{"replication_factor_min":2,"replication_factor_max":3,"name":"site","mode":"recursive","shard_size":0,
            "user_allocations":null,"expire_at":"2030-01-02T03:04:05Z","metadata":{{"team":"web"}},"pin_update":"{CID}",
            "origins":["/ip4/10.0.0.1/tcp/4001/p2p/{PEER}"],"cid":"{CID}","type":"pin","allocations":["{PEER}","{PEER}","x"],
            "max_depth":-1,"reference":null,"timestamp":"2026-05-11T10:20:30.5Z"}}"#
        );
        let item = taken(&line);
        let options = item.options.expect("set");
        assert_eq!((options.replication_min, options.replication_max), (2, 3));
        assert_eq!(
            (options.name.as_str(), options.mode()),
            ("site", v1::PinMode::Recursive)
        );
        assert_eq!(options.metadata.get("team").map(String::as_str), Some("web"));
        assert_eq!(options.origins, [format!("/ip4/10.0.0.1/tcp/4001/p2p/{PEER}")]);
        let expiry = Some(v1::pin_options::Expiry::ExpireAt(words::proto_time(
            parse_time("2030-01-02T03:04:05Z").expect("a time"),
        )));
        assert_eq!(options.expiry, expiry);
        assert_eq!(options.nodes, Vec::<String>::new(), "where it is held is no wish");
        let former = item.former.expect("set");
        assert_eq!(former.held_by, ["kubo-1"]);
        assert_eq!(former.updated_from, CID);
        let created = words::timestamp(former.created.as_ref()).expect("set");
        assert_eq!(created.to_string(), "2026-05-11T10:20:30.500Z");
    }

    #[test]
    fn old_forms_and_missing_fields_are_read() {
        let item = taken(&format!(
            r#"{{"cid":{{"/":"{CID}"}},"type":2,"name":null,"metadata":null,"origins":null}}"#
        ));
        assert_eq!(item.cid, CID);
        assert_eq!(item.former.expect("set").created, None);
        let direct = taken(&format!(
            r#"{{"cid":"{CID}","type":"pin","mode":"recursive","max_depth":0}}"#
        ));
        assert_eq!(
            direct.options.expect("set").mode(),
            v1::PinMode::Direct,
            "the depth decides"
        );
    }

    #[test]
    fn what_is_over_is_passed_by_and_what_is_wrong_is_named() {
        let with = |fields: &str| format!(r#"{{"cid":"{CID}",{fields}}}"#);
        assert_eq!(take(&with(r#""expire_at":"2020-01-01T00:00:00Z""#)), Ok(Taken::Expired));
        assert!(matches!(
            take(&with(r#""expire_at":"0001-01-01T00:00:00Z""#)),
            Ok(Taken::Pin(_))
        ));
        for (line, says) in [
            (r#"{"name":"x"}"#.to_owned(), "cid"),
            ("not JSON".into(), "not a pin"),
            (r#"{"cid":"abcd"}"#.into(), "cid"),
            (with(r#""type":"bad-type""#), "bad-type"),
            (with(r#""type":3"#), "type 3"),
            (with(r#""timestamp":"yesterday""#), "timestamp"),
            (with(r#""expire_at":"soon""#), "expire_at"),
            (with(r#""pin_update":"x""#), "pin_update"),
            (with(r#""max_depth":3"#), "max_depth 3"),
            (
                with(r#""replication_factor_min":5,"replication_factor_max":2"#),
                "replication",
            ),
            (with(r#""type":"meta-pin""#), "--sharded whole"),
        ] {
            let refused = take(&line).expect_err(&line);
            assert!(refused.contains(says), "{line}: {refused}");
        }
    }

    #[test]
    fn sharded_content_becomes_one_pin() {
        let rules = rules(Sharded::Whole);
        let line = |kind: &str, depth: i32| format!(r#"{{"cid":"{CID}","type":"{kind}","max_depth":{depth}}}"#);
        let take = |line: &str| rules.take(line, &Spec::default(), NOW).expect("understood");
        assert_eq!(take(&line("shard-pin", 1)), Taken::Part);
        assert_eq!(take(&line("clusterdag-pin", 0)), Taken::Part);
        // The reference writes a depth of 0, and means nothing by it.
        for (depth, mode) in [(-1, "recursive"), (0, "recursive"), (0, "direct"), (1, "recursive")] {
            let meta = line("meta-pin", depth).replace(r#""type""#, &format!(r#""mode":"{mode}","type""#));
            let Taken::Pin(item) = take(&meta) else {
                panic!("{meta}");
            };
            assert_eq!(item.options.expect("options").mode(), v1::PinMode::Recursive, "{meta}");
        }
    }

    #[test]
    fn times_are_written_as_go_does() {
        let at = |millis| go_time(Some(&words::proto_time(Timestamp::from_millis(millis))));
        assert_eq!(at(1_780_000_000_000), "2026-05-28T20:26:40Z");
        assert_eq!(at(1_780_000_000_120), "2026-05-28T20:26:40.12Z");
        assert_eq!(go_time(None), NEVER);
    }

    proptest! {
        /// What is written for a pin is read back as the same pin.
        #[test]
        fn lines_are_read_back(
            name in ".{0,20}",
            direct in any::<bool>(),
            min in 1..5,
            more in 0..3,
            metadata in proptest::collection::btree_map("[a-z]{1,5}", ".{0,8}", 0..4),
            expires in proptest::option::of(1..1_000_000_u64),
            created in 1..1_780_000_000_000_u64,
            updated in any::<bool>(),
        ) {
            prop_assume!(!name.contains('\0') && !metadata.values().any(|value| value.contains('\0')));
            let pin = v1::Pin {
                cid: CID.into(),
                name,
                mode: if direct { v1::PinMode::Direct } else { v1::PinMode::Recursive }.into(),
                replication_min: min,
                replication_max: min + more,
                metadata: metadata.into_iter().collect(),
                origins: vec![format!("/ip4/10.0.0.1/tcp/4001/p2p/{PEER}")],
                expire_at: expires.map(|millis| words::proto_time(Timestamp::from_millis(NOW.as_millis() + millis))),
                updated_from: if updated { CID.into() } else { String::new() },
                created: Some(words::proto_time(Timestamp::from_millis(created))),
                nodes: vec!["kubo-1".into()],
                ..v1::Pin::default()
            };
            let peers = BTreeMap::from([("kubo-1".to_owned(), PEER.parse().expect("a peer ID"))]);
            let text = serde_json::to_string(&line(&pin, &peers)).expect("JSON");
            let item = taken(&text);
            prop_assert_eq!(compare::differences(&item, &pin), Vec::new());
        }
    }
}
