//! What a user asked for, and what the cluster decided for it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{Cid, Created, Namespace, NodeId, Timestamp};

/// How much of the graph below a CID is held. Recursive includes direct.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum PinMode {
    /// The CID and everything it links to.
    #[default]
    Recursive,
    /// The one block only.
    Direct,
}

/// How many nodes shall hold a pin. Both are -1 (every node), or 0 (the cluster's default), or 1 <= min <= max.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Replication {
    /// Fewest nodes that must take it.
    pub min: i32,
    /// Nodes that shall hold it.
    pub max: i32,
}

/// Most nodes a pin can ask for, other than all.
pub const REPLICATION_MAX: i32 = 1_000;

impl Replication {
    /// Every node, present and future.
    pub const EVERYWHERE: Self = Self { min: -1, max: -1 };

    /// Whether every node shall hold it.
    pub fn is_everywhere(self) -> bool {
        self.min < 0
    }

    /// Replaces zeros by the cluster's default and checks the result.
    pub fn resolve(self, default: Self) -> Result<Self, Invalid> {
        let filled = match (self.min, self.max) {
            (0, 0) => default,
            (0, max) if max < 0 => Self { min: max, max },
            (min, 0) if min < 0 => Self { min, max: min },
            // One given: the other follows the default as far as the given one allows.
            (0, max) => Self {
                min: if default.is_everywhere() {
                    max
                } else {
                    default.min.min(max)
                },
                max,
            },
            (min, 0) => Self {
                min,
                max: if default.is_everywhere() {
                    min
                } else {
                    default.max.max(min)
                },
            },
            (min, max) => Self { min, max },
        };
        let Self { min, max } = filled;
        let field = "replication";
        if min < -1 || max < -1 {
            return Err(Invalid::new(
                field,
                format!("{min}..{max}"),
                "use 1 or more, -1 for every node, 0 for the default",
            ));
        }
        if (min == -1) != (max == -1) {
            return Err(Invalid::new(
                field,
                format!("{min}..{max}"),
                "set both to -1 for every node, or neither",
            ));
        }
        if min > max {
            return Err(Invalid::new(
                field,
                format!("{min}..{max}"),
                "the minimum must not exceed the maximum",
            ));
        }
        if max > REPLICATION_MAX {
            return Err(Invalid::new(
                field,
                format!("{min}..{max}"),
                "at most 1000; use -1 for every node",
            ));
        }
        Ok(filled)
    }
}

/// A value that breaks a rule: names the field, the value and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?}: {remedy}")]
pub struct Invalid {
    /// The field, as the API names it.
    pub field: String,
    /// What was given, cut to 80 characters.
    pub value: String,
    /// What is allowed.
    pub remedy: String,
}

impl Invalid {
    /// A broken rule.
    pub fn new(field: impl Into<String>, value: impl AsRef<str>, remedy: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            value: value.as_ref().chars().take(80).collect(),
            remedy: remedy.into(),
        }
    }
}

/// Names one pin: a namespace may hold several of one CID, told apart by their slot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PinKey {
    /// Whose pin it is.
    pub namespace: Namespace,
    /// What is pinned.
    pub cid: Cid,
    /// Usually empty.
    pub slot: String,
}

/// What a user can choose about a pin. Zeros in `replication` are resolved before it enters the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PinOptions {
    /// Free text.
    pub name: String,
    /// How much of the graph is held.
    pub mode: PinMode,
    /// How many nodes shall hold it.
    pub replication: Replication,
    /// Nodes to use first.
    pub nodes: Vec<NodeId>,
    /// Pairs to find it by.
    pub metadata: BTreeMap<String, String>,
    /// Multiaddrs of IPFS nodes that have the content.
    pub origins: Vec<String>,
    /// When it goes by itself.
    pub expire_at: Option<Timestamp>,
    /// The CID whose pin it was made from.
    pub updated_from: Option<Cid>,
}

/// Bounds of [`PinOptions`], in bytes and pieces. They keep a command far below the size of a batch.
pub mod limits {
    /// Bytes of a name.
    pub const NAME_BYTES: usize = 1_024;
    /// Bytes of a slot.
    pub const SLOT_BYTES: usize = 128;
    /// Pairs of metadata.
    pub const METADATA_PAIRS: usize = 64;
    /// Bytes of a metadata key.
    pub const METADATA_KEY_BYTES: usize = 256;
    /// Bytes of a metadata value.
    pub const METADATA_VALUE_BYTES: usize = 4_096;
    /// Bytes of all metadata of a pin.
    pub const METADATA_BYTES: usize = 32 * 1_024;
    /// Origins of a pin.
    pub const ORIGINS: usize = 32;
    /// Bytes of one origin.
    pub const ORIGIN_BYTES: usize = 512;
    /// Nodes a user may choose.
    pub const NODES: usize = 100;
}

impl PinOptions {
    /// Checks everything that can be checked without knowing the cluster.
    pub fn check(&self) -> Result<(), Invalid> {
        check_text("name", &self.name, limits::NAME_BYTES)?;
        if self.metadata.len() > limits::METADATA_PAIRS {
            return Err(Invalid::new(
                "metadata",
                format!("{} pairs", self.metadata.len()),
                "at most 64 pairs",
            ));
        }
        let mut bytes = 0;
        for (key, value) in &self.metadata {
            if key.is_empty() {
                return Err(Invalid::new("metadata", "", "a key must not be empty"));
            }
            check_text("metadata key", key, limits::METADATA_KEY_BYTES)?;
            check_text(&format!("metadata.{key}"), value, limits::METADATA_VALUE_BYTES)?;
            bytes += key.len() + value.len();
        }
        if bytes > limits::METADATA_BYTES {
            return Err(Invalid::new(
                "metadata",
                format!("{bytes} bytes"),
                "at most 32768 bytes in all",
            ));
        }
        if self.origins.len() > limits::ORIGINS {
            return Err(Invalid::new(
                "origins",
                format!("{} origins", self.origins.len()),
                "at most 32",
            ));
        }
        for origin in &self.origins {
            check_origin(origin)?;
        }
        if self.nodes.len() > limits::NODES {
            return Err(Invalid::new(
                "nodes",
                format!("{} nodes", self.nodes.len()),
                "at most 100",
            ));
        }
        Ok(())
    }

    /// Checks the expiry against the time of the request.
    pub fn check_expiry(&self, now: Timestamp) -> Result<(), Invalid> {
        match self.expire_at {
            Some(at) if at <= now => Err(Invalid::new(
                "expire_at",
                at.to_string(),
                format!("it must be in the future, and it is {now}"),
            )),
            _ => Ok(()),
        }
    }
}

/// Checks a slot.
pub fn check_slot(slot: &str) -> Result<(), Invalid> {
    check_text("slot", slot, limits::SLOT_BYTES)
}

/// Whether a slot is a request ID of the Pinning Services API: a UUID in lower case. Such a slot names its pin without its CID,
/// and no CID reads like one, since none has a hyphen there.
pub fn is_request_slot(slot: &str) -> bool {
    slot.len() == 36
        && slot.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

fn check_text(field: &str, text: &str, bytes_max: usize) -> Result<(), Invalid> {
    if text.len() > bytes_max {
        return Err(Invalid::new(
            field,
            text,
            format!("it has {} bytes, at most {bytes_max} are taken", text.len()),
        ));
    }
    // NUL ends a text inside an index key.
    if text.contains('\0') {
        return Err(Invalid::new(field, text, "NUL is not allowed in it"));
    }
    Ok(())
}

fn check_origin(origin: &str) -> Result<(), Invalid> {
    let remedy =
        "use a multiaddr that ends with /p2p/ and a peer ID, for example /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW…";
    let invalid = || Invalid::new("origins", origin, remedy);
    if origin.len() > limits::ORIGIN_BYTES {
        return Err(invalid());
    }
    let address: multiaddr::Multiaddr = origin.parse().map_err(|_| invalid())?;
    if address.iter().any(|part| matches!(part, multiaddr::Protocol::P2p(_))) {
        Ok(())
    } else {
        Err(invalid())
    }
}

/// The shortest time after which a pin may go by itself.
pub const EXPIRE_IN_MIN: Duration = Duration::from_secs(1);

/// A pin as recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Its name in the pinset.
    pub key: PinKey,
    /// What the user chose, with the default replication filled in.
    pub options: PinOptions,
    /// When it was first recorded.
    pub created: Timestamp,
    /// Which pin of that millisecond it was; see [`Created`].
    pub ordinal: u32,
    /// When its options last changed.
    pub modified: Timestamp,
    /// The revision of the pinset at which it last changed.
    pub revision: u64,
}

impl Pin {
    /// Its place in the order of all pins.
    pub fn created(&self) -> Created {
        Created {
            at: self.created,
            ordinal: self.ordinal,
        }
    }
}

/// What the cluster decided for a CID: which nodes shall hold it, for all pins of it together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// What is held.
    pub cid: Cid,
    /// Recursive as soon as one pin asks for that.
    pub mode: PinMode,
    /// The largest factors that any pin asks for.
    pub replication: Replication,
    /// Who shall hold it, ascending; empty when every node shall.
    pub nodes: Vec<NodeId>,
    /// Why fewer than `replication.min` nodes are assigned.
    pub unplaced: Option<String>,
    /// How many pins want it, and how many more only until another CID is held in its place.
    pub pins: u32,
    /// Of the pin that last changed the placement.
    pub origins: Vec<String>,
    /// A CID that the nodes held before and that shares blocks with this one.
    pub updated_from: Option<Cid>,
    /// The revision at which it last changed; plans name the one they were made for.
    pub revision: u64,
    /// When it last changed.
    pub changed: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replication_is_resolved_or_refused() {
        let default = Replication { min: 2, max: 3 };
        let resolve = |min, max| Replication { min, max }.resolve(default).map(|r| (r.min, r.max));
        assert_eq!(resolve(0, 0), Ok((2, 3)));
        assert_eq!(resolve(0, 1), Ok((1, 1)));
        assert_eq!(resolve(5, 0), Ok((5, 5)));
        assert_eq!(resolve(-1, -1), Ok((-1, -1)));
        assert_eq!(resolve(-1, 0), Ok((-1, -1)));
        for (min, max) in [(-2, -2), (-1, 2), (2, -1), (3, 2), (1, 1_001)] {
            let error = resolve(min, max).expect_err("refused");
            assert!(error.to_string().contains(&format!("{min}..{max}")), "{error}");
        }
    }
}
