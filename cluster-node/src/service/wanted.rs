//! What the worker is to bring about, read from the state.

use std::sync::Arc;

use cluster_storage::state::StateStore;
use cluster_worker::{TodoRow, WantedSource};
use node_core::pinset::{self, KvError, KvRead, Table, keys};
use node_core::reconcile::Wanted;
use node_core::{Cid, NodeId, PeerId, Placement};

/// The state as the worker sees it.
pub struct StateWanted {
    /// The state.
    pub state: Arc<StateStore>,
    /// This peer.
    pub own: PeerId,
}

impl WantedSource for StateWanted {
    fn todo(&self, limit: usize) -> Result<Vec<TodoRow>, String> {
        let rows = self.state.todo_batch(limit).map_err(|error| error.to_string())?;
        Ok(rows
            .into_iter()
            .map(|row| TodoRow {
                key: row.key,
                node: row.node,
                cid: row.cid,
            })
            .collect())
    }

    fn forget_todo(&self, keys: &[Vec<u8>]) -> Result<(), String> {
        self.state.delete_todo(keys).map_err(|error| error.to_string())
    }

    fn nodes(&self) -> Result<Vec<NodeId>, String> {
        let nodes = pinset::nodes_of_peer(&*self.state.current(), self.own);
        let nodes = nodes.map_err(|error| error.to_string())?;
        Ok(nodes.into_iter().map(|node| node.id).collect())
    }

    fn wanted(&self, node: NodeId, cid: &Cid) -> Result<Option<Wanted>, String> {
        let placement = pinset::placement(&*self.state.current(), cid).map_err(|error| error.to_string())?;
        Ok(placement.filter(|placement| holds(placement, node)).map(wanted_of))
    }

    fn scan_wanted(&self, node: NodeId, after: Option<&Cid>, limit: usize) -> Result<Vec<(Cid, Wanted)>, String> {
        let state = self.state.current();
        scan(&*state, node, after, limit).map_err(|error| error.to_string())
    }
}

fn holds(placement: &Placement, node: NodeId) -> bool {
    placement.replication.is_everywhere() || placement.nodes.contains(&node)
}

fn wanted_of(placement: Placement) -> Wanted {
    Wanted {
        mode: placement.mode,
        origins: placement.origins,
        updated_from: placement.updated_from,
        revision: placement.revision,
    }
}

/// The next CIDs that a node shall hold: those assigned to it and those held everywhere, two lists in CID order. They
/// are read one after the other and not from one snapshot: a change between leaves a to-do row, which is looked at later.
fn scan(kv: &dyn KvRead, node: NodeId, after: Option<&Cid>, limit: usize) -> Result<Vec<(Cid, Wanted)>, KvError> {
    let prefix = keys::node(node);
    let behind = after
        .map(|cid| [cid.to_bytes().as_slice(), &[0]].concat())
        .unwrap_or_default();
    let start = [prefix.as_slice(), &behind].concat();
    let mut cids = cids_of(
        kv,
        Table::ByNode,
        &start,
        keys::after_prefix(&prefix).as_deref(),
        limit,
        keys::read_by_node,
    )?;
    cids.extend(cids_of(
        kv,
        Table::Everywhere,
        &behind,
        None,
        limit,
        keys::read_whole_cid,
    )?);
    cids.sort_unstable();
    cids.dedup();
    cids.truncate(limit);
    let mut wanted = Vec::with_capacity(cids.len());
    for cid in cids {
        if let Some(placement) = pinset::placement(kv, &cid)?.filter(|placement| holds(placement, node)) {
            wanted.push((cid, wanted_of(placement)));
        }
    }
    Ok(wanted)
}

fn cids_of(
    kv: &dyn KvRead,
    table: Table,
    start: &[u8],
    end: Option<&[u8]>,
    limit: usize,
    read: impl Fn(&[u8]) -> Result<Cid, KvError>,
) -> Result<Vec<Cid>, KvError> {
    let mut cids = Vec::new();
    let mut failed = None;
    kv.scan(table, start, end, &mut |key, _| {
        match read(key) {
            Ok(cid) => cids.push(cid),
            Err(error) => failed = Some(error),
        }
        failed.is_none() && cids.len() < limit
    })?;
    failed.map_or(Ok(cids), Err)
}
