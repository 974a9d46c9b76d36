//! How values lie in the store and in the log: a version byte, then a protobuf message. A later version adds a decoder
//! for its own byte and keeps this one, so every disk ever written stays readable.

use prost::Message;

use super::records::{Change, ChangeKind, Header, Settings, Token};
use super::view::KvError;
use crate::{
    Cid, Created, Namespace, NodeId, NodeState, Peer, PeerId, Pin, PinKey, PinMode, PinOptions, Placement, Replication,
    StorageNode, Timestamp,
};

/// The version written.
const VERSION: u8 = 1;

/// Puts the version in front of a message.
pub(super) fn seal(message: &impl Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + message.encoded_len());
    out.push(VERSION);
    // A Vec grows, so this can't run out of space.
    message.encode_raw(&mut out);
    out
}

/// Reads a sealed message.
pub(super) fn open<M: Message + Default>(what: &str, bytes: &[u8]) -> Result<M, KvError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => M::decode(rest).map_err(|error| KvError(format!("{what} can't be read: {error}"))),
        Some((version, _)) => Err(KvError(format!(
            "{what} was written in form {version}, and this version reads only form {VERSION}; run the newer version"
        ))),
        None => Err(KvError(format!("{what} can't be read: it is empty"))),
    }
}

fn bad(what: &str, error: impl std::fmt::Display) -> KvError {
    KvError(format!("{what} can't be read: {error}"))
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OptionsV1 {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(bool, tag = "2")]
    pub direct: bool,
    #[prost(sint32, tag = "3")]
    pub min: i32,
    #[prost(sint32, tag = "4")]
    pub max: i32,
    #[prost(uint32, repeated, tag = "5")]
    pub nodes: Vec<u32>,
    #[prost(btree_map = "string, string", tag = "6")]
    pub metadata: std::collections::BTreeMap<String, String>,
    #[prost(string, repeated, tag = "7")]
    pub origins: Vec<String>,
    #[prost(uint64, optional, tag = "8")]
    pub expire_at: Option<u64>,
    #[prost(bytes = "vec", tag = "9")]
    pub updated_from: Vec<u8>,
}

impl From<&PinOptions> for OptionsV1 {
    fn from(options: &PinOptions) -> Self {
        Self {
            name: options.name.clone(),
            direct: options.mode == PinMode::Direct,
            min: options.replication.min,
            max: options.replication.max,
            nodes: ids(&options.nodes),
            metadata: options.metadata.clone(),
            origins: options.origins.clone(),
            expire_at: options.expire_at.map(Timestamp::as_millis),
            updated_from: optional_cid_bytes(options.updated_from),
        }
    }
}

impl OptionsV1 {
    pub fn read(self) -> Result<PinOptions, KvError> {
        Ok(PinOptions {
            name: self.name,
            mode: mode(self.direct),
            replication: Replication {
                min: self.min,
                max: self.max,
            },
            nodes: node_ids(self.nodes),
            metadata: self.metadata,
            origins: self.origins,
            expire_at: self.expire_at.map(Timestamp::from_millis),
            updated_from: read_optional_cid(&self.updated_from)?,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct PinV1 {
    #[prost(message, optional, tag = "1")]
    options: Option<OptionsV1>,
    #[prost(uint64, tag = "2")]
    created: u64,
    #[prost(uint64, tag = "3")]
    modified: u64,
    #[prost(uint64, tag = "4")]
    revision: u64,
    #[prost(uint32, tag = "5")]
    ordinal: u32,
}

/// The value of a pin. Its key is in the row's key.
pub fn encode_pin(pin: &Pin) -> Vec<u8> {
    seal(&PinV1 {
        options: Some((&pin.options).into()),
        created: pin.created.as_millis(),
        modified: pin.modified.as_millis(),
        revision: pin.revision,
        ordinal: pin.ordinal,
    })
}

/// Reads the value of a pin.
pub fn decode_pin(key: PinKey, bytes: &[u8]) -> Result<Pin, KvError> {
    let stored: PinV1 = open("a pin", bytes)?;
    Ok(Pin {
        key,
        options: stored.options.unwrap_or_default().read()?,
        created: Timestamp::from_millis(stored.created),
        ordinal: stored.ordinal,
        modified: Timestamp::from_millis(stored.modified),
        revision: stored.revision,
    })
}

/// Of a pin only its name. Fields that are not named here are passed over.
#[derive(Clone, PartialEq, Message)]
struct NamedPinV1 {
    #[prost(message, optional, tag = "1")]
    options: Option<NamedOptionsV1>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedOptionsV1 {
    #[prost(string, tag = "1")]
    name: String,
}

/// Reads only the name of a pin: a list of statuses shows nothing else of it.
pub fn decode_pin_name(bytes: &[u8]) -> Result<String, KvError> {
    let stored: NamedPinV1 = open("a pin", bytes)?;
    Ok(stored.options.unwrap_or_default().name)
}

#[derive(Clone, PartialEq, Message)]
struct PlacementV1 {
    #[prost(bool, tag = "1")]
    direct: bool,
    #[prost(sint32, tag = "2")]
    min: i32,
    #[prost(sint32, tag = "3")]
    max: i32,
    #[prost(uint32, repeated, tag = "4")]
    nodes: Vec<u32>,
    #[prost(string, optional, tag = "5")]
    unplaced: Option<String>,
    #[prost(uint32, tag = "6")]
    pins: u32,
    #[prost(string, repeated, tag = "7")]
    origins: Vec<String>,
    #[prost(bytes = "vec", tag = "8")]
    updated_from: Vec<u8>,
    #[prost(uint64, tag = "9")]
    revision: u64,
    #[prost(uint64, tag = "10")]
    changed: u64,
}

/// The value of a placement. Its CID is the row's key.
pub fn encode_placement(placement: &Placement) -> Vec<u8> {
    seal(&PlacementV1 {
        direct: placement.mode == PinMode::Direct,
        min: placement.replication.min,
        max: placement.replication.max,
        nodes: ids(&placement.nodes),
        unplaced: placement.unplaced.clone(),
        pins: placement.pins,
        origins: placement.origins.clone(),
        updated_from: optional_cid_bytes(placement.updated_from),
        revision: placement.revision,
        changed: placement.changed.as_millis(),
    })
}

/// Reads the value of a placement.
pub fn decode_placement(cid: Cid, bytes: &[u8]) -> Result<Placement, KvError> {
    let stored: PlacementV1 = open("a placement", bytes)?;
    Ok(Placement {
        cid,
        mode: mode(stored.direct),
        replication: Replication {
            min: stored.min,
            max: stored.max,
        },
        nodes: node_ids(stored.nodes),
        unplaced: stored.unplaced,
        pins: stored.pins,
        origins: stored.origins,
        updated_from: read_optional_cid(&stored.updated_from)?,
        revision: stored.revision,
        changed: Timestamp::from_millis(stored.changed),
    })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NodeV1 {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "vec", tag = "3")]
    peer: Vec<u8>,
    #[prost(string, tag = "4")]
    kind: String,
    #[prost(string, tag = "5")]
    api: String,
    #[prost(btree_map = "string, string", tag = "6")]
    tags: std::collections::BTreeMap<String, String>,
    #[prost(double, tag = "7")]
    weight: f64,
    #[prost(uint32, tag = "8")]
    state: u32,
    #[prost(string, tag = "9")]
    auth_file: String,
}

impl From<&StorageNode> for NodeV1 {
    fn from(node: &StorageNode) -> Self {
        Self {
            id: node.id.0,
            name: node.name.clone(),
            peer: node.peer.to_bytes(),
            kind: node.kind.clone(),
            api: node.api.clone(),
            tags: node.tags.clone(),
            weight: node.weight,
            state: node.state as u32,
            auth_file: node.auth_file.clone(),
        }
    }
}

impl NodeV1 {
    pub fn read(self) -> Result<StorageNode, KvError> {
        Ok(StorageNode {
            id: NodeId(self.id),
            name: self.name,
            peer: read_peer(&self.peer)?,
            kind: self.kind,
            api: self.api,
            tags: self.tags,
            weight: self.weight,
            state: by_code(&NodeState::ALL, self.state, "a node's state")?,
            auth_file: self.auth_file,
        })
    }
}

/// The value of a storage node.
pub fn encode_node(node: &StorageNode) -> Vec<u8> {
    seal(&NodeV1::from(node))
}

/// Reads the value of a storage node.
pub fn decode_node(bytes: &[u8]) -> Result<StorageNode, KvError> {
    open::<NodeV1>("a storage node", bytes)?.read()
}

#[derive(Clone, PartialEq, Message)]
struct PeerV1 {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(uint64, tag = "2")]
    raft_id: u64,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, repeated, tag = "4")]
    addresses: Vec<String>,
    #[prost(string, tag = "5")]
    api_address: String,
    #[prost(string, tag = "6")]
    version: String,
    #[prost(uint64, tag = "7")]
    joined: u64,
    #[prost(bool, tag = "8")]
    removed: bool,
}

/// The value of a peer.
pub fn encode_peer(peer: &Peer) -> Vec<u8> {
    seal(&PeerV1 {
        id: peer.id.to_bytes(),
        raft_id: peer.raft_id,
        name: peer.name.clone(),
        addresses: peer.addresses.clone(),
        api_address: peer.api_address.clone(),
        version: peer.version.clone(),
        joined: peer.joined.as_millis(),
        removed: peer.removed,
    })
}

/// Reads the value of a peer.
pub fn decode_peer(bytes: &[u8]) -> Result<Peer, KvError> {
    let stored: PeerV1 = open("a peer", bytes)?;
    Ok(Peer {
        id: read_peer(&stored.id)?,
        raft_id: stored.raft_id,
        name: stored.name,
        addresses: stored.addresses,
        api_address: stored.api_address,
        version: stored.version,
        joined: Timestamp::from_millis(stored.joined),
        removed: stored.removed,
    })
}

#[derive(Clone, PartialEq, Message)]
struct TokenV1 {
    #[prost(uint64, tag = "1")]
    expires: u64,
    #[prost(bytes = "vec", tag = "2")]
    used_by: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    attempt: Vec<u8>,
}

pub(super) fn encode_token(token: &Token) -> Vec<u8> {
    seal(&TokenV1 {
        expires: token.expires.as_millis(),
        used_by: token.used_by.map(PeerId::to_bytes).unwrap_or_default(),
        attempt: token.attempt.clone(),
    })
}

pub(super) fn decode_token(bytes: &[u8]) -> Result<Token, KvError> {
    let stored: TokenV1 = open("a join token", bytes)?;
    let used_by = if stored.used_by.is_empty() {
        None
    } else {
        Some(read_peer(&stored.used_by)?)
    };
    Ok(Token {
        expires: Timestamp::from_millis(stored.expires),
        used_by,
        attempt: stored.attempt,
    })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SettingsV1 {
    #[prost(sint32, tag = "1")]
    min: i32,
    #[prost(sint32, tag = "2")]
    max: i32,
    #[prost(string, repeated, tag = "3")]
    spread_by: Vec<String>,
}

impl From<&Settings> for SettingsV1 {
    fn from(settings: &Settings) -> Self {
        let Replication { min, max } = settings.replication;
        Self {
            min,
            max,
            spread_by: settings.spread_by.clone(),
        }
    }
}

impl SettingsV1 {
    pub fn read(self) -> Settings {
        Settings {
            replication: Replication {
                min: self.min,
                max: self.max,
            },
            spread_by: self.spread_by,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct HeaderV1 {
    #[prost(string, tag = "1")]
    cluster_id: String,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(uint32, tag = "3")]
    next_node: u32,
    #[prost(uint64, tag = "4")]
    pins: u64,
    #[prost(uint64, tag = "5")]
    cids: u64,
    #[prost(uint64, tag = "6")]
    unplaced: u64,
    #[prost(message, optional, tag = "7")]
    settings: Option<SettingsV1>,
    #[prost(uint64, tag = "8")]
    changes_from: u64,
    #[prost(uint64, tag = "9")]
    requests: u64,
    #[prost(uint64, tag = "10")]
    requests_from: u64,
    #[prost(uint64, tag = "11")]
    expiry_from: u64,
    #[prost(uint64, tag = "12")]
    credentials: u64,
    #[prost(uint64, tag = "13")]
    last_created: u64,
    #[prost(uint32, tag = "14")]
    last_ordinal: u32,
    #[prost(uint32, tag = "15")]
    next_ordinal: u32,
}

pub(super) fn encode_header(header: &Header) -> Vec<u8> {
    seal(&HeaderV1 {
        cluster_id: header.cluster_id.clone(),
        revision: header.revision,
        next_node: header.next_node,
        pins: header.pins,
        cids: header.cids,
        unplaced: header.unplaced,
        settings: Some((&header.settings).into()),
        changes_from: header.changes_from,
        requests: header.requests,
        requests_from: header.requests_from.as_millis(),
        expiry_from: header.expiry_from.as_millis(),
        credentials: header.credentials,
        last_created: header.last_created.at.as_millis(),
        last_ordinal: header.last_created.ordinal,
        next_ordinal: header.next_ordinal,
    })
}

pub(super) fn decode_header(bytes: &[u8]) -> Result<Header, KvError> {
    let stored: HeaderV1 = open("the header", bytes)?;
    Ok(Header {
        cluster_id: stored.cluster_id,
        revision: stored.revision,
        next_node: stored.next_node,
        pins: stored.pins,
        cids: stored.cids,
        unplaced: stored.unplaced,
        settings: stored.settings.unwrap_or_default().read(),
        changes_from: stored.changes_from,
        requests: stored.requests,
        requests_from: Timestamp::from_millis(stored.requests_from),
        expiry_from: Timestamp::from_millis(stored.expiry_from),
        credentials: stored.credentials,
        last_created: Created {
            at: Timestamp::from_millis(stored.last_created),
            ordinal: stored.last_ordinal,
        },
        next_ordinal: stored.next_ordinal,
    })
}

#[derive(Clone, PartialEq, Message)]
struct ChangeV1 {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(bytes = "vec", tag = "3")]
    cid: Vec<u8>,
    #[prost(string, tag = "4")]
    slot: String,
    #[prost(uint64, tag = "5")]
    time: u64,
}

pub(super) fn encode_change(change: &Change) -> Vec<u8> {
    let key = change.key.as_ref();
    seal(&ChangeV1 {
        kind: change.kind as u32,
        namespace: key.map(|key| key.namespace.to_string()).unwrap_or_default(),
        cid: change.cid.to_bytes(),
        slot: key.map(|key| key.slot.clone()).unwrap_or_default(),
        time: change.time.as_millis(),
    })
}

/// Reads the value of a change. Its revision is the row's key.
pub fn decode_change(revision: u64, bytes: &[u8]) -> Result<Change, KvError> {
    let stored: ChangeV1 = open("a change", bytes)?;
    let cid = read_cid(&stored.cid)?;
    let kind = by_code(&ChangeKind::ALL, stored.kind, "the kind of a change")?;
    let key = if kind == ChangeKind::PlacementChanged {
        None
    } else {
        let namespace = Namespace::new(&stored.namespace).map_err(|error| bad("a change", error))?;
        Some(PinKey {
            namespace,
            cid,
            slot: stored.slot,
        })
    };
    Ok(Change {
        revision,
        kind,
        cid,
        key,
        time: Timestamp::from_millis(stored.time),
    })
}

pub(super) fn mode(direct: bool) -> PinMode {
    if direct { PinMode::Direct } else { PinMode::Recursive }
}

pub(super) fn ids(nodes: &[NodeId]) -> Vec<u32> {
    nodes.iter().map(|node| node.0).collect()
}

pub(super) fn node_ids(nodes: Vec<u32>) -> Vec<NodeId> {
    nodes.into_iter().map(NodeId).collect()
}

pub(super) fn optional_cid_bytes(cid: Option<Cid>) -> Vec<u8> {
    cid.map(|cid| cid.to_bytes()).unwrap_or_default()
}

pub(super) fn read_optional_cid(bytes: &[u8]) -> Result<Option<Cid>, KvError> {
    if bytes.is_empty() {
        Ok(None)
    } else {
        read_cid(bytes).map(Some)
    }
}

pub(super) fn read_cid(bytes: &[u8]) -> Result<Cid, KvError> {
    Cid::from_bytes(bytes).map_err(|error| bad("a CID", error))
}

pub(super) fn read_peer(bytes: &[u8]) -> Result<PeerId, KvError> {
    PeerId::from_bytes(bytes).map_err(|error| bad("a peer ID", error))
}

pub(super) fn by_code<T: Copy>(all: &[T], code: u32, what: &str) -> Result<T, KvError> {
    let found = usize::try_from(code).ok().and_then(|code| all.get(code));
    found
        .copied()
        .ok_or_else(|| KvError(format!("{what} has the unknown code {code}; run the newer version")))
}
