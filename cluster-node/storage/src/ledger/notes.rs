//! What is remembered of a node beside its entries.

use node_core::NodeId;
use rocksdb::WriteBatch;

use super::{Error, Ledger, META, keys};

/// What is remembered of a node as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// The IPFS peer ID of the daemon that its entries speak of, as text.
    Daemon = 1,
    /// The binary CID up to which its pinned entries were audited.
    Audited = 2,
}

impl Note {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Daemon, Self::Audited];
}

impl Ledger {
    /// What is remembered of a node as a whole.
    pub fn note(&self, node: NodeId, note: Note) -> Result<Option<Vec<u8>>, Error> {
        let value = self
            .shared
            .db
            .get_cf(&self.shared.column(META), keys::note(node, note))?;
        Ok(value)
    }

    /// Remembers something of a node as a whole. Survives a killed process at once, a power failure after the next
    /// [`Self::sync`]; what was edited before does not get lost behind it, because both lie in one write-ahead log.
    pub fn set_note(&self, node: NodeId, note: Note, value: &[u8]) -> Result<(), Error> {
        let mut batch = WriteBatch::default();
        batch.put_cf(&self.shared.column(META), keys::note(node, note), value);
        self.shared.write(batch)
    }
}
