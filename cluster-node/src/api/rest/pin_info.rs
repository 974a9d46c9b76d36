//! The status of a CID at all members.
//!
//! Lists of millions of these are written, so one holds numbers and shares what is the same for all; texts are made while
//! it is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster_http::time;
use node_core::{Cid, NodeId, PeerId, Timestamp};
use serde::ser::{Serialize, SerializeMap as _, SerializeStruct as _, Serializer};

use super::tracker::{Filter, Tracker};
use crate::service::{IpfsSeen, Members, NodeEntry, Shown, allocated};

/// What an entry says whose peer does not answer.
const SILENT: &str = "the peer that drives this node does not answer";

/// Who there is, for all items of one answer.
#[derive(Debug, Clone)]
pub struct View {
    /// The members.
    pub members: Arc<Members>,
    /// Their IPFS nodes.
    pub ipfs: Arc<IpfsSeen>,
    /// Only the members of this peer are shown.
    pub only: Option<PeerId>,
    /// The time of the answer.
    pub now: Timestamp,
}

/// Where a CID stands at one member.
#[derive(Debug, Clone, PartialEq)]
struct Info {
    /// Its place among the members.
    member: usize,
    tracker: Tracker,
    /// When it came to stand there.
    at: Timestamp,
    error: String,
    attempts: u32,
}

/// Where a CID stands.
#[derive(Debug, Clone)]
pub struct GlobalPinInfo {
    view: View,
    cid: Cid,
    name: String,
    allocations: Vec<NodeId>,
    origins: Vec<String>,
    created: Timestamp,
    metadata: BTreeMap<String, String>,
    peers: Vec<Info>,
}

impl GlobalPinInfo {
    /// What is shown of a CID; none when no member passes the filter.
    pub fn of(view: &View, shown: Shown, filter: Filter) -> Option<Self> {
        let Shown { status, pin } = shown;
        let rest = match pin {
            Some(_) => Tracker::Remote,
            // It is only being let go of.
            None => Tracker::Unpinned,
        };
        let changed = status
            .placement
            .as_ref()
            .map_or(view.now, |placement| placement.changed);
        let allocations = allocated(status.placement.as_ref()).to_vec();
        let peers = view.infos(status.entries, rest, changed, filter);
        if peers.is_empty() && !filter.is_all() {
            return None;
        }
        let created = pin.as_ref().map_or(view.now, |pin| pin.created);
        let options = pin.map(|pin| pin.options).unwrap_or_default();
        Some(Self {
            view: view.clone(),
            cid: status.cid,
            name: options.name,
            allocations,
            origins: options.origins,
            created,
            metadata: options.metadata,
            peers,
        })
    }

    /// A CID that is not pinned: all members say so.
    pub fn unpinned(view: &View, cid: Cid) -> Self {
        Self {
            view: view.clone(),
            cid,
            name: String::new(),
            allocations: Vec::new(),
            origins: Vec::new(),
            // A single peer knows nothing of when; all together say when they were asked.
            created: view.only.map_or(view.now, |_| Timestamp::ZERO),
            metadata: BTreeMap::new(),
            peers: view.infos(Vec::new(), Tracker::Unpinned, view.now, Filter::default()),
        }
    }
}

impl View {
    /// One entry for each member that is shown and passes: what its node says, or else `rest`.
    fn infos(&self, entries: Vec<NodeEntry>, rest: Tracker, changed: Timestamp, filter: Filter) -> Vec<Info> {
        let mut said: Vec<Option<NodeEntry>> = vec![None; self.members.len()];
        for entry in entries {
            if let Some(place) = self.members.place(entry.node) {
                said[place] = Some(entry);
            }
        }
        let shown = self.members.iter().zip(said).enumerate();
        let shown = shown.filter(|(_, (member, _))| self.only.is_none_or(|peer| member.peer == peer));
        let info = |(place, (_, entry)): (usize, (_, Option<NodeEntry>))| {
            let Some(entry) = entry else {
                return Info {
                    member: place,
                    tracker: rest,
                    at: self.now,
                    error: String::new(),
                    attempts: 0,
                };
            };
            let tracker = Tracker::of(&entry);
            Info {
                member: place,
                at: match entry.changed {
                    Timestamp::ZERO => changed,
                    at => at,
                },
                error: match tracker {
                    Tracker::ClusterError if entry.error.is_empty() => SILENT.to_owned(),
                    _ => entry.error,
                },
                attempts: entry.attempts,
                tracker,
            }
        };
        shown.map(info).filter(|info| filter.wants(info.tracker)).collect()
    }
}

impl Serialize for GlobalPinInfo {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let members = &self.view.members;
        let allocations = self.allocations.iter().filter_map(|node| members.text_of(*node));
        let mut object = to.serialize_struct("GlobalPinInfo", 7)?;
        object.serialize_field("cid", &Text(&self.cid))?;
        object.serialize_field("name", &self.name)?;
        object.serialize_field("allocations", &allocations.collect::<Vec<_>>())?;
        object.serialize_field("origins", &self.origins)?;
        object.serialize_field("created", &time::rfc3339(self.created))?;
        object.serialize_field("metadata", &self.metadata)?;
        object.serialize_field("peer_map", &PeerMap(self))?;
        object.end()
    }
}

struct PeerMap<'a>(&'a GlobalPinInfo);

impl Serialize for PeerMap<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let GlobalPinInfo { view, peers, .. } = self.0;
        // Members lie in the order of their IDs, so the keys come sorted.
        let mut map = to.serialize_map(Some(peers.len()))?;
        for info in peers {
            if let Some(member) = view.members.at(info.member) {
                map.serialize_entry(&member.text, &Short { view, info })?;
            }
        }
        map.end()
    }
}

/// Where a CID stands at one member, as the value of its ID.
struct Short<'a> {
    view: &'a View,
    info: &'a Info,
}

impl Serialize for Short<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Self { view, info } = self;
        let member = view.members.at(info.member);
        let ipfs = member.and_then(|member| view.ipfs.get(&member.node?));
        let mut object = to.serialize_struct("PinInfoShort", 8)?;
        object.serialize_field("peername", member.map_or("", |member| &member.name))?;
        if let Some(ipfs) = ipfs {
            object.serialize_field("ipfs_peer_id", &ipfs.id)?;
            if !ipfs.addresses.is_empty() {
                object.serialize_field("ipfs_peer_addresses", &ipfs.addresses)?;
            }
        }
        object.serialize_field("status", info.tracker.as_str())?;
        object.serialize_field("timestamp", &time::rfc3339(info.at))?;
        object.serialize_field("error", &info.error)?;
        object.serialize_field("attempt_count", &info.attempts)?;
        object.serialize_field("priority_pin", &false)?;
        object.end()
    }
}

/// Something as its text.
struct Text<'a, T>(&'a T);

impl<T: std::fmt::Display> Serialize for Text<'_, T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    use node_core::{
        Namespace, NodeState, Pin, PinKey, PinMode, PinOptions, Placement, Replication, Status, StorageNode,
    };
    use serde_json::{Value, json};

    use super::*;
    use crate::service::{IpfsNodeSeen, StatusView};

    const CID: &str = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
    const PEER: &str = "12D3KooWBhV9dp6GQkvFYdvCpwWkRxgnYC4UHPBGtKaqxbxn3Kmr";
    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_500);

    fn node(id: u32) -> StorageNode {
        StorageNode {
            id: NodeId(id),
            name: format!("node-{id}"),
            peer: PEER.parse().expect("an ID"),
            kind: "kubo".into(),
            api: String::new(),
            tags: BTreeMap::new(),
            weight: 1.0,
            state: NodeState::Active,
            auth_file: String::new(),
        }
    }

    fn view() -> View {
        let seen = IpfsNodeSeen {
            id: PEER.into(),
            addresses: vec![format!("/ip4/1.2.3.4/tcp/4001/p2p/{PEER}")],
        };
        View {
            members: Arc::new(Members::of(&[node(1), node(2)], [])),
            ipfs: Arc::new(BTreeMap::from([(NodeId(1), seen)])),
            only: None,
            now: NOW,
        }
    }

    fn shown(entries: &[(u32, Status)], is_pinned: bool) -> Shown {
        let cid: Cid = CID.parse().expect("a CID");
        let placement = Placement {
            cid,
            mode: PinMode::Recursive,
            replication: Replication { min: 1, max: 1 },
            nodes: vec![NodeId(1)],
            unplaced: None,
            pins: 1,
            origins: Vec::new(),
            updated_from: None,
            revision: 1,
            changed: Timestamp::from_millis(1_000),
        };
        let entries = entries
            .iter()
            .map(|(node, status)| NodeEntry::bare(NodeId(*node), *status));
        let pin = Pin {
            key: PinKey {
                namespace: Namespace::default(),
                cid,
                slot: String::new(),
            },
            options: PinOptions {
                name: "site".into(),
                ..PinOptions::default()
            },
            created: Timestamp::from_millis(1_000),
            ordinal: 0,
            modified: Timestamp::from_millis(2_000),
            revision: 1,
        };
        Shown {
            status: StatusView {
                cid,
                name: "site".into(),
                placement: is_pinned.then_some(placement),
                status: Status::Pinned,
                entries: entries.collect(),
            },
            pin: is_pinned.then_some(pin),
        }
    }

    fn written(info: &GlobalPinInfo) -> Value {
        serde_json::to_value(info).expect("it is JSON")
    }

    #[test]
    fn all_members_are_told_with_what_is_known_and_nothing_empty() {
        let info = GlobalPinInfo::of(&view(), shown(&[(1, Status::Pinned)], true), Filter::default());
        let info = written(&info.expect("no filter"));
        let other = view().members.of_node(NodeId(2)).expect("a member").text.clone();
        assert_eq!(
            info,
            json!({
                "cid": CID, "name": "site", "allocations": [PEER], "origins": [], "metadata": {},
                "created": "1970-01-01T00:00:01Z",
                "peer_map": {
                    PEER: {
                        "peername": "node-1", "ipfs_peer_id": PEER,
                        "ipfs_peer_addresses": [format!("/ip4/1.2.3.4/tcp/4001/p2p/{PEER}")],
                        "status": "pinned", "timestamp": "1970-01-01T00:00:01Z", "error": "", "attempt_count": 0,
                        "priority_pin": false,
                    },
                    // What is not known of its IPFS node is left out: an empty ID breaks the Go client.
                    other: {
                        "peername": "node-2", "status": "remote", "timestamp": "2023-11-14T22:13:20.5Z", "error": "",
                        "attempt_count": 0, "priority_pin": false,
                    },
                },
            })
        );
    }

    #[test]
    fn a_filter_leaves_what_fits_and_drops_what_has_nothing() {
        let filter = |words| Filter::read(words).expect("valid");
        let pinned = || shown(&[(1, Status::Pinned)], true);
        let info = GlobalPinInfo::of(&view(), pinned(), filter("pinned")).expect("one is");
        assert_eq!(
            written(&info)["peer_map"].as_object().map(serde_json::Map::len),
            Some(1)
        );
        assert!(GlobalPinInfo::of(&view(), pinned(), filter("pin_error")).is_none());
        assert!(GlobalPinInfo::of(&view(), pinned(), filter("remote")).is_some());
    }

    #[test]
    fn what_is_let_go_of_and_what_was_never_pinned() {
        let info = GlobalPinInfo::of(&view(), shown(&[(1, Status::Unpinning)], false), Filter::default());
        let info = written(&info.expect("no filter"));
        assert_eq!(info["peer_map"][PEER]["status"], "unpinning");
        let statuses = |info: &Value| {
            let map = info["peer_map"].as_object().expect("an object");
            map.values().map(|short| short["status"].clone()).collect::<Vec<_>>()
        };
        assert!(statuses(&info).contains(&json!("unpinned")));
        let cid = CID.parse().expect("a CID");
        let info = written(&GlobalPinInfo::unpinned(&view(), cid));
        assert_eq!(statuses(&info), [json!("unpinned"), json!("unpinned")]);
        assert_eq!(info["created"], "2023-11-14T22:13:20.5Z");
        let local = View {
            only: Some(PEER.parse().expect("an ID")),
            ..view()
        };
        let info = written(&GlobalPinInfo::unpinned(&local, cid));
        assert_eq!(info["created"], "0001-01-01T00:00:00Z");
    }

    #[test]
    fn a_silent_peer_shows_as_an_error_with_words() {
        let info = GlobalPinInfo::of(&view(), shown(&[(1, Status::Unreachable)], true), Filter::default());
        let info = written(&info.expect("no filter"));
        assert_eq!(info["peer_map"][PEER]["status"], "cluster_error");
        assert_eq!(info["peer_map"][PEER]["error"], SILENT);
    }
}
