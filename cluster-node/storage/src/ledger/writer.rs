//! The one thread that changes the ledger.
//!
//! ```text
//! edit() ─▶ bounded queue ─▶ writer: drain what waits ─▶ read old, apply, index, count ─▶ one WriteBatch ─▶ answer all
//! ```
//! Because old and new value of an entry meet in one place, indexes and counts follow without locks, and callers that
//! race (a wish that changed, an outcome that arrives) each see what the other left behind. While a batch is being
//! written the next one collects by itself, so many small edits cost as little as a few large ones.

use std::collections::HashMap;
use std::sync::Arc;

use node_core::reconcile::{Change, Entry};
use node_core::{Cid, NodeId};
use rocksdb::{WriteBatch, WriteOptions};
use tokio::sync::{mpsc, oneshot};

use super::{COUNTS, Counts, DUE, ENTRIES, Error, META, STATUS, Shared, entry, keys};
use crate::lower_priority;

type Apply = Box<dyn FnOnce(Option<&Entry>) -> Change + Send>;

/// One atomic read-modify-write of an entry. The function runs on the writer's thread: it must be quick and must not
/// call the ledger.
pub struct Edit {
    pub(super) node: NodeId,
    pub(super) cid: Cid,
    pub(super) apply: Apply,
}

impl Edit {
    /// An edit of the entry of `cid` at `node`.
    pub fn new(node: NodeId, cid: Cid, apply: impl FnOnce(Option<&Entry>) -> Change + Send + 'static) -> Self {
        Self {
            node,
            cid,
            apply: Box::new(apply),
        }
    }

    /// Sets the entry whatever it was.
    pub fn put(node: NodeId, cid: Cid, entry: Entry) -> Self {
        Self::new(node, cid, |_| Change::Put(entry))
    }
}

pub(super) enum Command {
    Edit {
        edits: Vec<Edit>,
        reply: oneshot::Sender<Result<Vec<Option<Entry>>, Error>>,
    },
    DropNode {
        node: NodeId,
        reply: oneshot::Sender<Result<(), Error>>,
    },
}

/// Commands that may wait. Callers beyond wait for their turn to hand one in; each carries at most what its caller
/// could hold in memory anyway.
pub(super) const COMMANDS_MAX: usize = 256;

/// Edits after which a batch is written even though more are waiting: about a megabyte, and few milliseconds of delay
/// for the first of them.
const EDITS_MAX: usize = 4_096;

pub(super) fn run(shared: &Shared, mut commands: mpsc::Receiver<Command>) {
    let mut waiting = Vec::with_capacity(COMMANDS_MAX);
    while commands.blocking_recv_many(&mut waiting, COMMANDS_MAX) > 0 {
        let mut group = Group::new(shared);
        for command in waiting.drain(..) {
            match command {
                Command::Edit { edits, reply } => {
                    let result = group.edit(edits);
                    group.replies.push((reply, result));
                    if group.edits >= EDITS_MAX {
                        group.commit();
                        group = Group::new(shared);
                    }
                }
                Command::DropNode { node, reply } => {
                    group.commit();
                    // The receiver may be gone: the work is done all the same.
                    let _ = reply.send(drop_node(shared, node));
                    group = Group::new(shared);
                }
            }
        }
        group.commit();
    }
}

type Answer = Result<Vec<Option<Entry>>, Error>;

struct Group<'a> {
    shared: &'a Shared,
    batch: WriteBatch,
    /// Entries already changed by this group: the table does not show them yet.
    changed: HashMap<Vec<u8>, Option<Entry>>,
    counts: HashMap<NodeId, Counts>,
    /// Due keys written, for the floors from which the queues are read.
    due: Vec<Vec<u8>>,
    edits: usize,
    value: Vec<u8>,
    replies: Vec<(oneshot::Sender<Answer>, Answer)>,
}

impl<'a> Group<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            batch: WriteBatch::default(),
            changed: HashMap::new(),
            counts: HashMap::new(),
            due: Vec::new(),
            edits: 0,
            value: Vec::new(),
            replies: Vec::new(),
        }
    }

    fn edit(&mut self, edits: Vec<Edit>) -> Answer {
        let mut out = Vec::with_capacity(edits.len());
        for edit in edits {
            self.edits += 1;
            let key = keys::entry(edit.node, &edit.cid);
            let old = match self.changed.get(&key) {
                Some(entry) => entry.clone(),
                None => self.shared.read(&key)?,
            };
            match (edit.apply)(old.as_ref()) {
                Change::Keep => out.push(old),
                Change::Put(mut entry) => {
                    entry::normalise(&mut entry);
                    if !Entry::can_store(entry.status) {
                        return Err(Error::Damaged(format!(
                            "status {} is never stored",
                            entry.status.as_str()
                        )));
                    }
                    if old.as_ref() != Some(&entry) {
                        self.replace(edit.node, &key, old.as_ref(), Some(&entry));
                        self.changed.insert(key, Some(entry.clone()));
                    }
                    out.push(Some(entry));
                }
                Change::Delete => {
                    if old.is_some() {
                        self.replace(edit.node, &key, old.as_ref(), None);
                        self.changed.insert(key, None);
                    }
                    out.push(None);
                }
            }
        }
        Ok(out)
    }

    fn replace(&mut self, node: NodeId, key: &[u8], old: Option<&Entry>, new: Option<&Entry>) {
        let [entries, due, status] = [ENTRIES, DUE, STATUS].map(|name| self.shared.column(name));
        match new {
            Some(entry) => {
                entry::encode(entry, &mut self.value);
                self.batch.put_cf(&entries, key, &self.value);
            }
            None => self.batch.delete_cf(&entries, key),
        }
        let due_key = |entry: &Entry| entry.lane().map(|lane| keys::due(key, lane, entry.next_due));
        let (was, is) = (old.and_then(due_key), new.and_then(due_key));
        if was != is {
            if let Some(was) = was {
                self.batch.delete_cf(&due, was);
            }
            if let Some(is) = is {
                self.batch.put_cf(&due, &is, []);
                self.due.push(is);
            }
        }
        let (was, is) = (old.map(|entry| entry.status), new.map(|entry| entry.status));
        if was != is {
            let counts = self
                .counts
                .entry(node)
                .or_insert_with(|| self.shared.counts.read().get(&node).copied().unwrap_or_default());
            if let Some(was) = was {
                counts.0[was as usize] = counts.0[was as usize].saturating_sub(1);
                if super::is_indexed(was) {
                    self.batch.delete_cf(&status, keys::status(key, was));
                }
            }
            if let Some(is) = is {
                counts.0[is as usize] += 1;
                if super::is_indexed(is) {
                    self.batch.put_cf(&status, keys::status(key, is), []);
                }
            }
        }
    }

    fn commit(mut self) {
        let result = self.write();
        for (reply, answer) in self.replies.drain(..) {
            let answer = match &result {
                Ok(()) => answer,
                Err(error) => Err(error.clone()),
            };
            // A caller that went away does not undo what it asked for.
            let _ = reply.send(answer);
        }
    }

    fn write(&mut self) -> Result<(), Error> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let meta = self.shared.column(META);
        {
            let known = self.shared.counts.read();
            for (node, counts) in &self.counts {
                let before = known.get(node).copied().unwrap_or_default();
                for status in COUNTS {
                    let (old, new) = (before.of(status), counts.of(status));
                    if old != new {
                        self.batch.put_cf(&meta, keys::count(*node, status), new.to_be_bytes());
                    }
                }
            }
        }
        self.shared.write(std::mem::take(&mut self.batch))?;
        // Memory follows the disk, never the other way round: a failed write leaves both as they were.
        self.shared.counts.write().extend(self.counts.drain());
        self.shared.floors.lower(&self.due);
        Ok(())
    }
}

fn drop_node(shared: &Shared, node: NodeId) -> Result<(), Error> {
    let mut batch = WriteBatch::default();
    let from = keys::node(node);
    // The highest number ends the table; such a node is never given out, so its last key need not be exact.
    let to = keys::node_end(node).map_or_else(|| vec![u8::MAX; 64], |end| end.to_vec());
    for name in [ENTRIES, DUE, STATUS] {
        batch.delete_range_cf(&shared.column(name), &from[..], &to[..]);
    }
    let meta = shared.column(META);
    for status in COUNTS {
        batch.delete_cf(&meta, keys::count(node, status));
    }
    for note in super::Note::ALL {
        batch.delete_cf(&meta, keys::note(node, note));
    }
    shared.write(batch)?;
    shared.counts.write().remove(&node);
    Ok(())
}

impl Shared {
    fn read(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        let value = self.db.get_pinned_cf(&self.column(ENTRIES), key)?;
        value.map(|value| entry::decode(&value)).transpose()
    }

    pub(super) fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        let written = self.db.write_opt(batch, &WriteOptions::default());
        *self.fault.lock() = written.as_ref().err().map(ToString::to_string);
        written?;
        // After the write: a sync that begins between the two covers it, and one more sync does no harm.
        self.unsynced.store(true, std::sync::atomic::Ordering::Release);
        Ok(())
    }
}

/// Starts the writer.
pub(super) fn spawn(shared: Arc<Shared>) -> Result<(mpsc::Sender<Command>, std::thread::JoinHandle<()>), Error> {
    let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
    let thread = std::thread::Builder::new()
        .name("ledger-writer".into())
        .spawn(move || {
            lower_priority();
            run(&shared, receiver);
        })
        .map_err(|error| Error::Thread(error.to_string()))?;
    Ok((sender, thread))
}
