//! What is asked for a pin, checked before anything is sent.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster_proto::v1;
use node_core::{
    Cid, EXPIRE_IN_MIN, Invalid, Namespace, NodeId, PinMode, PinOptions, Replication, Timestamp, check_name,
    check_slot, limits,
};

use crate::output::words;

/// When a pin goes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// At a moment.
    At(Timestamp),
    /// So long after it is recorded.
    In(Duration),
}

/// Everything about a pin but its CID.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spec {
    /// Empty: the default namespace.
    pub namespace: String,
    /// Usually empty.
    pub slot: String,
    /// Free text.
    pub name: String,
    /// How much of the graph is held.
    pub mode: PinMode,
    /// Zeros: the cluster's default.
    pub replication: Replication,
    /// Names or IDs of nodes to use first.
    pub nodes: Vec<String>,
    /// Pairs to find it by.
    pub metadata: BTreeMap<String, String>,
    /// Multiaddrs of IPFS nodes that have the content.
    pub origins: Vec<String>,
    /// When it goes by itself.
    pub expiry: Option<Expiry>,
    /// Record it even when no node can take it now.
    pub allow_unplaced: bool,
}

impl Spec {
    /// Checks all that can be known without asking the cluster.
    pub fn check(&self, now: Timestamp) -> Result<(), Invalid> {
        check_namespace(&self.namespace)?;
        check_slot(&self.slot)?;
        // The cluster's default is not known here; this one admits every choice that some default admits.
        let widest = Replication {
            min: 1,
            max: node_core::REPLICATION_MAX,
        };
        self.replication.resolve(widest)?;
        if self.nodes.len() > limits::NODES {
            return Err(Invalid::new(
                "node",
                format!("{} nodes", self.nodes.len()),
                "at most 100",
            ));
        }
        for node in &self.nodes {
            check_node("node", node)?;
        }
        let options = PinOptions {
            name: self.name.clone(),
            metadata: self.metadata.clone(),
            origins: self.origins.clone(),
            ..PinOptions::default()
        };
        options.check()?;
        match self.expiry {
            Some(Expiry::At(at)) if at <= now => Err(Invalid::new(
                "expire-at",
                at.to_string(),
                format!("it must be in the future, and it is {now}"),
            )),
            Some(Expiry::In(time)) if time < EXPIRE_IN_MIN => {
                Err(Invalid::new("expire-in", words::coarse(time), "at least 1s"))
            }
            _ => Ok(()),
        }
    }

    /// Makes an expiry absolute, so that sending the item again does not move it.
    pub fn fix_expiry(&mut self, now: Timestamp) {
        if let Some(Expiry::In(time)) = self.expiry {
            self.expiry = Some(Expiry::At(now.plus(time)));
        }
    }

    /// The options as the wire has them.
    pub fn options(&self) -> v1::PinOptions {
        let mode = match self.mode {
            PinMode::Recursive => v1::PinMode::Recursive,
            PinMode::Direct => v1::PinMode::Direct,
        };
        v1::PinOptions {
            name: self.name.clone(),
            mode: mode.into(),
            replication_min: self.replication.min,
            replication_max: self.replication.max,
            nodes: self.nodes.clone(),
            metadata: self.metadata.clone().into_iter().collect(),
            origins: self.origins.clone(),
            expiry: self.expiry.map(|expiry| match expiry {
                Expiry::At(at) => v1::pin_options::Expiry::ExpireAt(words::proto_time(at)),
                Expiry::In(time) => {
                    v1::pin_options::Expiry::ExpireInMs(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
                }
            }),
        }
    }

    /// One pin by itself.
    pub fn request(&self, cid: &Cid, request_id: String) -> v1::PinRequest {
        v1::PinRequest {
            namespace: self.namespace.clone(),
            cid: cid.to_string(),
            slot: self.slot.clone(),
            options: Some(self.options()),
            request_id,
            allow_unplaced: self.allow_unplaced,
        }
    }

    /// One pin of a stream.
    pub fn item(&self, cid: &Cid) -> v1::BulkPinItem {
        v1::BulkPinItem {
            namespace: self.namespace.clone(),
            cid: cid.to_string(),
            slot: self.slot.clone(),
            options: Some(self.options()),
            allow_unplaced: self.allow_unplaced,
            former: None,
        }
    }
}

/// Checks a namespace; empty is the default one.
pub fn check_namespace(namespace: &str) -> Result<(), Invalid> {
    Namespace::new(namespace).map(|_| ()).map_err(|_| {
        Invalid::new(
            "namespace",
            namespace,
            "1 to 63 of a-z 0-9 - _, beginning with a letter or digit",
        )
    })
}

/// Checks what may be the name or the ID of a node.
pub fn check_node(field: &str, node: &str) -> Result<(), Invalid> {
    if node.parse::<NodeId>().is_ok() || check_name("node", node).is_ok() {
        return Ok(());
    }
    Err(Invalid::new(
        field,
        node,
        "use a node's name or its ID (n7); see `cluster-ctl node ls`",
    ))
}

/// Reads a moment: RFC 3339, with `Z` or an offset. Fractions below a millisecond are dropped.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    let wrong = || format!("{text:?} is not a time; use RFC 3339, for example 2026-12-31T12:00:00Z");
    let time = text.trim();
    // The parser below knows UTC only. An offset is the last six characters: +hh:mm.
    let (base, offset_seconds) = match time.len().checked_sub(6).and_then(|at| time.split_at_checked(at)) {
        Some((base, offset)) if offset.starts_with(['+', '-']) && base.len() >= 19 => {
            let hours: i64 = offset[1..]
                .get(..2)
                .and_then(|digits| digits.parse().ok())
                .ok_or_else(wrong)?;
            let minutes: i64 = offset
                .get(4..)
                .and_then(|digits| digits.parse().ok())
                .ok_or_else(wrong)?;
            if offset.as_bytes()[3] != b':' || hours > 23 || minutes > 59 {
                return Err(wrong());
            }
            let seconds = hours * 3_600 + minutes * 60;
            (
                format!("{base}Z"),
                if offset.starts_with('-') { -seconds } else { seconds },
            )
        }
        _ => (time.to_owned(), 0),
    };
    let utc = humantime::parse_rfc3339_weak(&base).map_err(|_| wrong())?;
    let millis = utc
        .duration_since(std::time::UNIX_EPOCH)
        .map_err(|_| wrong())?
        .as_millis();
    let shifted = i64::try_from(millis).map_err(|_| wrong())? - offset_seconds * 1_000;
    u64::try_from(shifted).map(Timestamp::from_millis).map_err(|_| wrong())
}

/// Reads a duration: `90s`, `2d`, `1h 30m`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim())
        .map_err(|_| format!("{text:?} is not a duration; use a number with a unit, for example 90s, 15m, 12h or 2d"))
}

/// Reads `key=value`.
pub fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_with_offsets() {
        let utc = parse_time("2026-12-31T12:00:00Z").expect("valid");
        for same in [
            "2026-12-31T14:00:00+02:00",
            "2026-12-31T06:30:00-05:30",
            "2026-12-31T12:00:00.0004Z",
        ] {
            assert_eq!(parse_time(same), Ok(utc), "{same}");
        }
        for bad in [
            "",
            "tomorrow",
            "2026-13-01T00:00:00Z",
            "2026-12-31",
            "2026-12-31T12:00:00+2:00",
            "1969-12-31T12:00:00Z",
            "ééééééééééééééééé",
        ] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bad_values_name_their_field() {
        let now = Timestamp::from_millis(1_000_000);
        let check = |change: fn(&mut Spec)| {
            let mut spec = Spec::default();
            change(&mut spec);
            spec.check(now).map_err(|e| e.field)
        };
        assert_eq!(check(|_| ()), Ok(()));
        assert_eq!(check(|s| s.name = "x".repeat(1_025)), Err("name".into()));
        assert_eq!(check(|s| s.namespace = "Über".into()), Err("namespace".into()));
        assert_eq!(check(|s| s.slot = "\0".into()), Err("slot".into()));
        assert_eq!(check(|s| s.nodes = vec!["a b".into()]), Err("node".into()));
        assert_eq!(
            check(|s| s.origins = vec!["/ip4/1.2.3.4".into()]),
            Err("origins".into())
        );
        assert_eq!(
            check(|s| s.replication = Replication { min: 3, max: 2 }),
            Err("replication".into())
        );
        assert_eq!(
            check(|s| s.expiry = Some(Expiry::In(Duration::from_millis(5)))),
            Err("expire-in".into())
        );
        assert_eq!(
            check(|s| s.expiry = Some(Expiry::At(Timestamp::from_millis(1_000_000)))),
            Err("expire-at".into())
        );
    }
}
