//! Applies the log to the state, and makes and installs snapshots.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use cluster_storage::snapshot::{Incoming, Snapshot, SnapshotStore};
use cluster_storage::state::{todo_key, todo_value};
use cluster_storage::{Overlay, StateStore, StoreError};
use futures::{Stream, StreamExt};
use node_core::command::{CommandBatch, Op, Request};
use node_core::pinset::{self, Effects, KvRead, KvWrite, Table, keys};
use node_core::{NodeId, PeerId};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::codec;
use crate::handles::Held;
use crate::types::{Answer, C, Entry, LogId, Membership, SnapshotMeta, StoredMembership};

/// Where in `Meta` it says how far the log was applied.
const APPLIED: &[u8] = b"raft/applied";
/// Where in `Meta` the members are.
const MEMBERSHIP: &[u8] = b"raft/membership";

/// Commands handed to a blocking thread at a time.
const CHUNK_BYTES: usize = 1 << 20;
const CHUNK_ENTRIES: usize = 4096;
/// With fewer requests, reading ahead saves nothing.
const READ_AHEAD_MIN: usize = 16;
/// Rows written to the state at a time.
const BATCH_BYTES: usize = 4 << 20;

/// How far the state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Index of the last entry that was applied; 0 before the first.
    pub index: u64,
    /// Revision of the pinset.
    pub revision: u64,
}

/// Counters that grow when something has changed that few care for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changes {
    /// Peers were admitted, changed or removed.
    pub members: u64,
    /// Storage nodes or settings were added or changed.
    pub nodes: u64,
}

/// Snapshots since the start of this peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SnapshotCounts {
    /// Taken here.
    pub built: u64,
    /// Received from a leader, in place of the state.
    pub installed: u64,
}

/// What openraft drives. Clones share the state.
#[derive(Clone)]
pub(crate) struct StateMachine {
    shared: Arc<Shared>,
    held: Held,
}

pub(crate) struct Shared {
    state: Arc<StateStore>,
    snapshots: SnapshotStore,
    own_peer: PeerId,
    own_nodes: Arc<ArcSwap<BTreeSet<NodeId>>>,
    applied: watch::Sender<Applied>,
    changes: watch::Sender<Changes>,
    credentials: watch::Sender<()>,
    position: Mutex<Position>,
    bytes_applied: AtomicU64,
    /// Entries may be left out. Never but in openraft's own suite.
    gaps: bool,
    snapshots_built: AtomicU64,
    snapshots_installed: AtomicU64,
}

/// What the rows of consensus say, and what follows from it.
#[derive(Clone)]
struct Position {
    applied: Option<LogId>,
    membership: StoredMembership,
    revision: u64,
    own: Arc<BTreeSet<NodeId>>,
}

/// A snapshot on its way in or out.
#[derive(Debug)]
pub enum SnapshotData {
    /// Of this peer.
    Own(Arc<Snapshot>),
    /// From the leader.
    Received(Incoming),
}

/// One entry's answer, held back until what it tells is written.
type Waiting = (Option<ApplyResponder<C>>, Answer);

impl StateMachine {
    pub fn open(state: Arc<StateStore>, own_peer: PeerId) -> io::Result<Self> {
        Self::start(state, own_peer, false)
    }

    #[cfg(test)]
    pub fn open_for_suite(state: Arc<StateStore>, own_peer: PeerId) -> io::Result<Self> {
        Self::start(state, own_peer, true)
    }

    fn start(state: Arc<StateStore>, own_peer: PeerId, gaps: bool) -> io::Result<Self> {
        let snapshots = SnapshotStore::open(&state.snapshots_folder())?;
        let position = Position::read(&*state.current(), own_peer)?;
        let shared = Shared {
            snapshots,
            own_peer,
            own_nodes: Arc::new(ArcSwap::new(Arc::clone(&position.own))),
            applied: watch::Sender::new(position.applied()),
            changes: watch::Sender::new(Changes::default()),
            credentials: watch::Sender::new(()),
            position: Mutex::new(position),
            bytes_applied: AtomicU64::new(0),
            snapshots_built: AtomicU64::new(0),
            snapshots_installed: AtomicU64::new(0),
            state,
            gaps,
        };
        Ok(Self {
            shared: Arc::new(shared),
            held: Held::new(),
        })
    }

    /// Waits until nobody else has a handle.
    pub async fn alone(&self) {
        self.held.alone().await;
    }

    /// The last entry that was applied.
    pub fn applied_id(&self) -> Option<LogId> {
        self.shared.position.lock().applied
    }

    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.shared.applied.subscribe()
    }

    pub fn changes(&self) -> watch::Receiver<Changes> {
        self.shared.changes.subscribe()
    }

    pub fn credentials(&self) -> watch::Receiver<()> {
        self.shared.credentials.subscribe()
    }

    pub fn own_nodes(&self) -> Arc<ArcSwap<BTreeSet<NodeId>>> {
        Arc::clone(&self.shared.own_nodes)
    }

    pub fn snapshot_counts(&self) -> SnapshotCounts {
        SnapshotCounts {
            built: self.shared.snapshots_built.load(Ordering::Relaxed),
            installed: self.shared.snapshots_installed.load(Ordering::Relaxed),
        }
    }

    /// Bytes of commands applied since the process began.
    pub fn bytes_applied(&self) -> u64 {
        self.shared.bytes_applied.load(Ordering::Relaxed)
    }

    /// Index of the newest snapshot.
    pub fn snapshot_index(&self) -> Option<u64> {
        self.shared.snapshots.current().map(|snapshot| snapshot.index())
    }

    /// A log that begins behind the newest snapshot can bring no follower up: a crash right after a snapshot was
    /// installed leaves it so. Takes one, unless there is one that reaches to where the log was purged, or is about to
    /// be: openraft purges what lies between the end of the log and the state, when it starts and the log ends before
    /// the state does.
    pub fn cover(&self, purged: Option<LogId>, last: Option<LogId>) -> io::Result<()> {
        let applied = self.applied_id();
        let purged = if last < applied { applied } else { purged };
        let Some(purged) = purged else { return Ok(()) };
        if self.snapshot_index().is_none_or(|index| index < purged.index) {
            self.shared.build()?;
        }
        Ok(())
    }
}

impl Shared {
    fn apply(&self, chunk: Vec<(Entry, Option<ApplyResponder<C>>)>) -> io::Result<()> {
        let db = self.state.current();
        let mut position = self.position.lock().clone();
        let mut batch = Batch::new(&db);
        let chunk = chunk
            .into_iter()
            .map(|(entry, responder)| Ok((Decoded::from_entry(entry)?, responder)))
            .collect::<io::Result<Vec<_>>>()?;
        read_ahead(&batch.overlay, &chunk)?;
        for (entry, responder) in chunk {
            let answer = self.apply_entry(&mut batch, &mut position, entry)?;
            batch.waiting.push((responder, answer));
            if batch.overlay.bytes() >= BATCH_BYTES {
                let full = std::mem::replace(&mut batch, Batch::new(&db));
                self.commit(full, &position)?;
            }
        }
        self.commit(batch, &position)
    }

    fn apply_entry(&self, batch: &mut Batch<'_>, position: &mut Position, entry: Decoded) -> io::Result<Answer> {
        let log_id = entry.log_id;
        let next = position.applied.map_or(0, |applied| applied.index + 1);
        // One that comes twice or is left out makes this peer's state another than that of the others, for good.
        if log_id.index < next || (log_id.index > next && !self.gaps) {
            let message = format!("entry {log_id} can't be applied: entry {next} comes next");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        position.applied = Some(log_id);
        match entry.what {
            What::Nothing => Ok(Answer::new()),
            What::Members(membership) => {
                position.membership = StoredMembership::new(Some(log_id), membership);
                batch.membership_changed = true;
                batch.changes.members += 1;
                Ok(Answer::new())
            }
            What::Commands { commands, bytes } => {
                self.bytes_applied.fetch_add(bytes, Ordering::Relaxed);
                let mut effects = Effects::default();
                let answer = pinset::apply(&mut batch.overlay, log_id.index, &commands, &mut effects)
                    .map_err(io::Error::other)?;
                position.revision = effects.revision;
                self.follow(batch, position, log_id.index, effects)?;
                Ok(answer)
            }
        }
    }

    /// Leaves the to-do of this peer's storage nodes in the same batch as the change that makes it necessary.
    fn follow(&self, batch: &mut Batch<'_>, position: &mut Position, index: u64, effects: Effects) -> io::Result<()> {
        let before = Arc::clone(&position.own);
        if effects.nodes_changed {
            position.own = Arc::new(own_nodes(&batch.overlay, self.own_peer)?);
            batch.changes.nodes += 1;
        }
        if effects.members_changed {
            batch.changes.members += 1;
        }
        batch.credentials_changed |= effects.credentials_changed;
        // A node that this entry takes away has to be told so as well.
        let own = |node: &NodeId| position.own.contains(node) || before.contains(node);
        let touched = effects.touched.iter().map(|(node, cid)| (*node, Some(cid)));
        let resync = effects.resync.iter().map(|node| (*node, None));
        let rows = touched.chain(resync).filter(|(node, _)| own(node));
        for ((node, cid), number) in rows.zip(0..u32::MAX) {
            batch
                .overlay
                .put(Table::Todo, todo_key(index, number), todo_value(node, cid));
        }
        Ok(())
    }

    /// Writes a batch, with the position it brings the state to; then tells everyone.
    fn commit(&self, mut batch: Batch<'_>, position: &Position) -> io::Result<()> {
        if batch.waiting.is_empty() {
            return Ok(());
        }
        if let Some(applied) = &position.applied {
            batch
                .overlay
                .put(Table::Meta, APPLIED.to_vec(), codec::encode_log_id(applied).to_vec());
        }
        if batch.membership_changed {
            let row = codec::encode_membership(&position.membership).to_vec();
            batch.overlay.put(Table::Meta, MEMBERSHIP.to_vec(), row);
        }
        self.state.write(batch.overlay.into_batch())?;
        if batch.credentials_changed {
            self.credentials.send_replace(());
        }
        self.publish(position, batch.changes);
        for (responder, answer) in batch.waiting {
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    fn publish(&self, position: &Position, changes: Changes) {
        *self.position.lock() = position.clone();
        self.own_nodes.store(Arc::clone(&position.own));
        if changes != Changes::default() {
            self.changes.send_modify(|counters| {
                counters.members += changes.members;
                counters.nodes += changes.nodes;
            });
        }
        // Last: who waits for an index finds all that it brought, what it changed counted too.
        self.applied.send_replace(position.applied());
    }

    fn build(&self) -> io::Result<(SnapshotMeta, Arc<Snapshot>)> {
        // Read from the checkpoint itself: the state goes on while it is made.
        let describe = |view: &dyn KvRead| {
            let (applied, membership) = read_rows(view).map_err(|error| StoreError::Corrupt(error.to_string()))?;
            let meta = SnapshotMeta {
                last_log_id: applied,
                last_membership: membership,
            };
            Ok((
                applied.map_or(0, |applied| applied.index),
                codec::encode_snapshot_meta(&meta),
            ))
        };
        let snapshot = self.snapshots.build(&self.state, describe)?;
        self.snapshots_built.fetch_add(1, Ordering::Relaxed);
        tracing::info!(
            index = snapshot.index(),
            bytes = snapshot.bytes(),
            "a snapshot was taken"
        );
        Ok((codec::decode_snapshot_meta(snapshot.meta())?, snapshot))
    }

    fn install(&self, meta: &SnapshotMeta, data: SnapshotData) -> io::Result<()> {
        let at = meta.last_log_id.map_or(0, |last| last.index);
        let check = |view: &dyn KvRead| check(view, meta);
        match data {
            SnapshotData::Received(incoming) => self.state.install(incoming.folder(), at, check)?,
            SnapshotData::Own(snapshot) => {
                let folder = self.state.incoming_folder();
                snapshot.copy_to(&folder)?;
                self.state.install(&folder, at, check)?;
            }
        }
        let position = Position::read(&*self.state.current(), self.own_peer)?;
        self.publish(&position, Changes { members: 1, nodes: 1 });
        self.credentials.send_replace(());
        self.snapshots_installed.fetch_add(1, Ordering::Relaxed);
        tracing::info!(index = at, "a snapshot was installed");
        // What other peers get from now on, should they need one.
        self.build()?;
        Ok(())
    }
}

/// Whether a snapshot is what it is said to be.
pub(crate) fn check(view: &dyn KvRead, meta: &SnapshotMeta) -> Result<(), StoreError> {
    let (applied, membership) = read_rows(view).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    if applied == meta.last_log_id && membership == meta.last_membership {
        return Ok(());
    }
    Err(StoreError::Corrupt(format!(
        "the snapshot is at {applied:?}, it should be at {:?}",
        meta.last_log_id
    )))
}

/// An entry, ready to be applied.
struct Decoded {
    log_id: LogId,
    what: What,
}

enum What {
    Nothing,
    Members(Membership),
    Commands { commands: CommandBatch, bytes: u64 },
}

impl Decoded {
    fn from_entry(entry: Entry) -> io::Result<Self> {
        let what = match entry.payload {
            EntryPayload::Blank => What::Nothing,
            EntryPayload::Membership(membership) => What::Members(membership),
            EntryPayload::Normal(command) => What::Commands {
                commands: CommandBatch::decode(&command.0).map_err(io::Error::other)?,
                bytes: command.0.len() as u64,
            },
        };
        Ok(Self {
            log_id: entry.log_id,
            what,
        })
    }

    fn requests(&self) -> &[Request] {
        match &self.what {
            What::Commands { commands, .. } => &commands.requests,
            What::Nothing | What::Members(_) => &[],
        }
    }
}

/// Reads the rows that applying will ask for one by one, if there are enough of them.
fn read_ahead<R>(overlay: &Overlay<'_>, chunk: &[(Decoded, R)]) -> io::Result<()> {
    let requests = || chunk.iter().flat_map(|(entry, _)| entry.requests());
    if requests().nth(READ_AHEAD_MIN).is_none() {
        return Ok(());
    }
    let (mut pins, mut placements, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for request in requests() {
        if let Some(id) = &request.id {
            ids.push(id.as_str().as_bytes().to_vec());
        }
        if let Op::PutPin { key, .. } | Op::RemovePin { key } = &request.op {
            pins.push(keys::pin(key));
            placements.push(keys::cid(&key.cid));
        }
    }
    for (table, keys) in [
        (Table::Requests, ids),
        (Table::Pins, pins),
        (Table::Placements, placements),
    ] {
        overlay.prefetch(table, keys).map_err(io::Error::other)?;
    }
    Ok(())
}

/// What is written at once.
struct Batch<'a> {
    overlay: Overlay<'a>,
    waiting: Vec<Waiting>,
    membership_changed: bool,
    credentials_changed: bool,
    changes: Changes,
}

impl<'a> Batch<'a> {
    fn new(db: &'a cluster_storage::StateDb) -> Self {
        Self {
            overlay: Overlay::new(db),
            waiting: Vec::new(),
            membership_changed: false,
            credentials_changed: false,
            changes: Changes::default(),
        }
    }
}

impl Position {
    fn read(view: &dyn KvRead, own_peer: PeerId) -> io::Result<Self> {
        let (applied, membership) = read_rows(view)?;
        let revision = pinset::header(view).map_err(io::Error::other)?.revision;
        Ok(Self {
            applied,
            membership,
            revision,
            own: Arc::new(own_nodes(view, own_peer)?),
        })
    }

    fn applied(&self) -> Applied {
        Applied {
            index: self.applied.map_or(0, |applied| applied.index),
            revision: self.revision,
        }
    }
}

fn own_nodes(view: &dyn KvRead, own_peer: PeerId) -> io::Result<BTreeSet<NodeId>> {
    let nodes = pinset::nodes_of_peer(view, own_peer).map_err(io::Error::other)?;
    Ok(nodes.into_iter().map(|node| node.id).collect())
}

fn read_rows(view: &dyn KvRead) -> io::Result<(Option<LogId>, StoredMembership)> {
    let get = |key| {
        view.get(Table::Meta, key)
            .map(|row| row.map(Bytes::from))
            .map_err(io::Error::other)
    };
    let applied = get(APPLIED)?.as_ref().map(codec::decode_log_id).transpose()?;
    let membership = match get(MEMBERSHIP)? {
        Some(row) => codec::decode_membership(&row)?,
        None => StoredMembership::new(None, Membership::default()),
    };
    Ok((applied, membership))
}

/// Runs what may wait for a disk where that delays nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

impl RaftStateMachine<C> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let position = self.shared.position.lock();
        Ok((position.applied, position.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<C>>> + Unpin + OptionalSend,
    {
        let mut entries = entries.fuse();
        loop {
            let mut chunk = Vec::new();
            let mut bytes = 0;
            while bytes < CHUNK_BYTES && chunk.len() < CHUNK_ENTRIES {
                let Some(item) = entries.next().await else { break };
                let (entry, responder) = item?;
                if let EntryPayload::Normal(command) = &entry.payload {
                    bytes += command.0.len();
                }
                chunk.push((entry, responder));
            }
            if chunk.is_empty() {
                return Ok(());
            }
            let shared = Arc::clone(&self.shared);
            blocking(move || shared.apply(chunk)).await?;
        }
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Self> {
        // A disk that is already behind gets no more to do; the next count of entries asks again.
        let busy = !force && self.shared.state.is_slowed_down();
        (!busy).then(|| self.clone())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        let (shared, meta) = (Arc::clone(&self.shared), meta.clone());
        blocking(move || shared.install(&meta, snapshot)).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<openraft::alias::SnapshotOf<C, SnapshotData>>> {
        let Some(snapshot) = self.shared.snapshots.current() else {
            return Ok(None);
        };
        let meta = codec::decode_snapshot_meta(snapshot.meta())?;
        Ok(Some(openraft::Snapshot {
            meta,
            snapshot: SnapshotData::Own(snapshot),
        }))
    }
}

impl RaftSnapshotBuilder<C> for StateMachine {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<openraft::alias::SnapshotOf<C, SnapshotData>> {
        let shared = Arc::clone(&self.shared);
        let (meta, snapshot) = blocking(move || shared.build()).await?;
        Ok(openraft::Snapshot {
            meta,
            snapshot: SnapshotData::Own(snapshot),
        })
    }
}

#[cfg(test)]
mod tests {
    use cluster_storage::StateOptions;
    use openraft::entry::RaftEntry;
    use openraft::vote::RaftLeaderId;

    use super::*;
    use crate::types::{LeaderId, RaftPeer};

    fn blank(index: u64) -> Entry {
        Entry::new(LogId::new(LeaderId::new(1, 1), index), EntryPayload::Blank)
    }

    /// An entry that is left out, or comes twice, stops this peer: its state would be another than that of the others.
    #[test]
    fn entries_are_applied_one_after_the_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateStore::open(folder.path(), StateOptions::default()).expect("opened");
        let machine = StateMachine::open(Arc::new(state), RaftPeer::default().peer_id).expect("opened");
        let apply = |indexes: &[u64]| {
            let entries = indexes.iter().map(|index| (blank(*index), None));
            machine.shared.apply(entries.collect())
        };
        apply(&[1]).expect_err("the first is 0");
        apply(&[0, 1, 2]).expect("in order");
        for wrong in [&[2][..], &[4], &[3, 5]] {
            let error = apply(wrong).expect_err("not in order").to_string();
            assert!(error.contains("comes next"), "{error}");
        }
        assert_eq!(machine.applied().borrow().index, 2, "nothing of it was applied");
        apply(&[3]).expect("the next one");
    }
}
