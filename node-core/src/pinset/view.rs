//! The few reads and writes that the pinset needs of a store.

/// A table of the replicated state: a column family in RocksDB. Keys and values are made by this crate alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// The header: cluster, settings, counters. The consensus layer keeps its own rows here too, under `raft/`.
    Meta,
    /// Pins by namespace, CID and slot.
    Pins,
    /// Which pins want a CID, by CID.
    CidPins,
    /// Where a CID is held.
    Placements,
    /// CIDs by the node that shall hold them.
    ByNode,
    /// CIDs that every node shall hold.
    Everywhere,
    /// CIDs whose placement does not fit their factors: too few nodes, or too many.
    Unsettled,
    /// Pins by name.
    ByName,
    /// Pins by metadata pair.
    ByMetadata,
    /// Pins by time of creation, with the pin as in [`Table::Pins`]: lists by time, name and metadata read them in this order,
    /// in which they lie together, and not one by one all over the pinset.
    ByCreated,
    /// Pins by expiry.
    ByExpiry,
    /// Storage nodes.
    Nodes,
    /// Peers.
    Peers,
    /// Join tokens by the hash of their secret.
    Tokens,
    /// Answers by request ID.
    Requests,
    /// Request IDs by time, for forgetting them.
    RequestTimes,
    /// Changes by revision, for watching.
    Changes,
    /// Credentials of clients, by ID and by name.
    Credentials,
    /// CIDs by the request ID under which they were pinned.
    Slots,
    /// CIDs that are kept until what replaces them is held, with that.
    Kept,
    /// What this peer's worker has yet to look at. Local: not part of the replicated state.
    Todo,
}

impl Table {
    /// All tables.
    pub const ALL: [Self; 21] = [
        Self::Meta,
        Self::Pins,
        Self::CidPins,
        Self::Placements,
        Self::ByNode,
        Self::Everywhere,
        Self::Unsettled,
        Self::ByName,
        Self::ByMetadata,
        Self::ByCreated,
        Self::ByExpiry,
        Self::Nodes,
        Self::Peers,
        Self::Tokens,
        Self::Requests,
        Self::RequestTimes,
        Self::Changes,
        Self::Credentials,
        Self::Slots,
        Self::Kept,
        Self::Todo,
    ];

    /// The name of its column family. Never changed: it is on disk.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Pins => "pins",
            Self::CidPins => "cid_pins",
            Self::Placements => "placements",
            Self::ByNode => "by_node",
            Self::Everywhere => "everywhere",
            Self::Unsettled => "unsettled",
            Self::ByName => "by_name",
            Self::ByMetadata => "by_metadata",
            Self::ByCreated => "by_created",
            Self::ByExpiry => "by_expiry",
            Self::Nodes => "nodes",
            Self::Peers => "peers",
            Self::Tokens => "tokens",
            Self::Requests => "requests",
            Self::RequestTimes => "request_times",
            Self::Changes => "changes",
            Self::Credentials => "credentials",
            Self::Slots => "slots",
            Self::Kept => "kept",
            Self::Todo => "todo",
        }
    }
}

/// The store failed, or holds what this version can't read. Never the user's fault; the peer must leave service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KvError(pub String);

/// Called for each row of a scan; `false` ends it.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> bool;

/// Reads.
pub trait KvRead {
    /// The value under `key`.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// Visits the rows with `start` <= key < `end` in key order until `visit` returns `false`. No `end` = to the end of
    /// the table.
    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), KvError>;
}

/// Reads that lists need besides.
pub trait KvWalk: KvRead {
    /// Visits the rows with `start` <= key < `end` from the last to the first until `visit` returns `false`. No `end` = from
    /// the end of the table.
    fn scan_back(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), KvError>;

    /// The values under many keys, in the order asked. Keys that are in order are found several times as fast.
    fn get_many(&self, table: Table, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, KvError>;
}

/// Reads and writes. A read sees the writes before it.
pub trait KvWrite: KvRead {
    /// Sets the value under `key`.
    fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>);

    /// Removes `key`; nothing happens when it is not there.
    fn delete(&mut self, table: Table, key: Vec<u8>);
}
