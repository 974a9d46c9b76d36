//! The one thread that changes the store.
//!
//! ```text
//! put, visit, pin … ─▶ bounded queue ─▶ writer: apply what waits ─▶ one WriteBatch ─▶ one sync ─▶ answer all
//! ```
//! While a batch is on its way to the disk the next one collects by itself. A batch in which nobody was promised that it is
//! on disk, which is visits of walks and deletions of garbage, is written and not synced: a power failure takes the end of
//! the log, never something before it, so what is left is a moment of the past, with the walk's rows as they were then. The
//! next sync covers it; 16 MiB do not wait for one. A killed process loses nothing either way.
//!
//! Because all changes meet here in one order,
//! counts of references need no lock: who wants to delete a block asks again here whether it may. What takes long, which
//! is reading blocks and finding their links, is done before by who asks.

mod collect;
mod group;

use std::sync::Arc;

use bytes::Bytes;
use node_core::{Cid, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::db::Shared;
use crate::key::{Key, Left};
use crate::rows::Meta;
use crate::{Error, Mode, Pin, Progress};
use group::Group;

/// Commands that may wait; callers beyond wait for their turn to hand one in. What blocks they carry is bounded by
/// [`crate::StoreOptions::queue_bytes`].
pub(crate) const COMMANDS_MAX: usize = 256;

/// Bytes after which a batch is written even though more is waiting: some tens of milliseconds of a slow disk, which is
/// what the first caller waits longer for, and by far enough for the sync to be a small part of the whole.
const GROUP_BYTES_MAX: usize = 8 << 20;

/// A block that is to be stored, with what was found out about it by who hands it in.
pub(crate) struct Incoming {
    pub(crate) key: Key,
    pub(crate) bytes: Bytes,
    pub(crate) counted: Option<Counted>,
}

/// That the links of a block under one codec are to be counted, and which they are.
pub(crate) struct Counted {
    pub(crate) bit: u8,
    pub(crate) keys: Vec<Key>,
}

/// What a walk did to one row of its frontier.
pub(crate) struct Visit {
    /// The row, which goes.
    pub(crate) place: u64,
    pub(crate) target: Vec<u8>,
    pub(crate) left: Left,
    /// It was not visited before with less depth.
    pub(crate) first: bool,
    pub(crate) what: Seen,
    /// Rows that come: place, CID and depth.
    pub(crate) children: Vec<(u64, Cid, Left)>,
}

pub(crate) enum Seen {
    /// It was fetched.
    Fetched(Incoming),
    /// It was in the store.
    Present(Key, Option<Counted>),
    /// It is a complete recursive pin of its own.
    Pinned(Cid),
    /// It was visited before with no less depth.
    Before,
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// Told once the visits are written: the places of those that were not done because the store no longer holds what was
/// seen there.
pub(crate) type Told = Box<dyn FnOnce(Result<Vec<u64>, Error>) + Send>;

/// A row that a collection wants to change. What it was when it was looked at is compared with what it is.
pub(crate) struct Candidate {
    pub(crate) key: Key,
    /// None: there are references of a block that is not stored, and they add up to nothing.
    pub(crate) meta: Option<Meta>,
    /// What the block's counted links refer to, a list a codec, all in one.
    pub(crate) keys: Vec<Key>,
}

/// What became of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Collected {
    /// It is in use, or changed since it was looked at.
    Kept,
    /// A block went, with the references that it gave.
    Deleted,
    /// Only the references that it gave went: nothing but direct pins hold it.
    Uncounted,
    /// Only a row that said nothing went.
    Cleaned,
}

pub(crate) enum Command {
    Put {
        blocks: Vec<Incoming>,
        /// The add that it belongs to.
        epoch: Option<u64>,
        room: OwnedSemaphorePermit,
        reply: Reply<()>,
    },
    Visit {
        cid: Cid,
        walk: u64,
        visits: Vec<Visit>,
        room: Option<OwnedSemaphorePermit>,
        told: Told,
    },
    Finish {
        cid: Cid,
        walk: u64,
        now: Timestamp,
        reply: Reply<Pin>,
    },
    PinBegin {
        cid: Cid,
        mode: Mode,
        name: String,
        now: Timestamp,
        reply: Reply<Pin>,
    },
    Unpin {
        cid: Cid,
        reply: Reply<bool>,
    },
    /// Keeps what lies below roots until a time.
    Keep {
        roots: Vec<Cid>,
        until: Timestamp,
        reply: Reply<()>,
    },
    /// Lets go of those of these roots whose time has come.
    Expire {
        roots: Vec<Cid>,
        now: Timestamp,
        reply: Reply<()>,
    },
    Note {
        key: Vec<u8>,
        value: Option<Bytes>,
        reply: Reply<()>,
    },
    Collect {
        candidates: Vec<Candidate>,
        reply: Reply<(Vec<Collected>, Progress)>,
    },
    /// Takes a block for absent, and lets all walks begin anew.
    Lose {
        key: Key,
        reply: Reply<()>,
    },
    /// Lets a complete pin be walked again.
    Rewalk {
        cid: Cid,
        reply: Reply<bool>,
    },
    /// Answered when everything before it is written.
    Barrier {
        reply: Reply<()>,
    },
}

fn run(shared: &Shared, mut commands: mpsc::Receiver<Command>) {
    let mut waiting = Vec::with_capacity(COMMANDS_MAX);
    'next: while commands.blocking_recv_many(&mut waiting, COMMANDS_MAX) > 0 {
        let mut group = Group::new(shared);
        loop {
            for command in waiting.drain(..) {
                group = apply(shared, group, command);
                if group.bytes() >= GROUP_BYTES_MAX {
                    group.commit();
                    group = Group::new(shared);
                }
                if shared.fault.lock().is_some() {
                    break 'next;
                }
            }
            // What arrived meanwhile shares the sync.
            while waiting.len() < COMMANDS_MAX
                && let Ok(command) = commands.try_recv()
            {
                waiting.push(command);
            }
            if waiting.is_empty() {
                break;
            }
        }
        group.commit();
        if shared.fault.lock().is_some() {
            break;
        }
    }
    // Whoever still waits finds the answer's other end gone, and the reason in `fault`.
    commands.close();
    while commands.try_recv().is_ok() {}
}

fn apply<'a>(shared: &'a Shared, mut group: Group<'a>, command: Command) -> Group<'a> {
    match command {
        Command::Put {
            blocks,
            epoch,
            room,
            reply,
        } => {
            let result = group.put(blocks, epoch);
            group.answer(reply, result);
            group.hold(room);
        }
        Command::Visit {
            cid,
            walk,
            visits,
            room,
            told,
        } => {
            let result = group.visit(&cid, walk, visits);
            group.then(Box::new(move |written| told(written.and(result))));
            if let Some(room) = room {
                group.hold(room);
            }
        }
        Command::Finish { cid, walk, now, reply } => {
            let result = group.finish(&cid, walk, now);
            group.answer(reply, result);
        }
        Command::PinBegin {
            cid,
            mode,
            name,
            now,
            reply,
        } => {
            let result = group.pin_begin(cid, mode, name, now);
            group.answer(reply, result);
        }
        Command::Unpin { cid, reply } => {
            let result = group.unpin(&cid);
            group.answer(reply, result);
        }
        Command::Keep { roots, until, reply } => {
            let result = roots.iter().try_for_each(|root| group.keep(root, until));
            group.answer(reply, result);
        }
        Command::Expire { roots, now, reply } => {
            let result = roots.iter().try_for_each(|root| group.expire(root, now));
            group.answer(reply, result);
        }
        Command::Note { key, value, reply } => {
            group.note(&key, value.as_deref());
            group.answer(reply, Ok(()));
        }
        Command::Rewalk { cid, reply } => {
            let result = group.rewalk(&cid);
            group.answer(reply, result);
        }
        Command::Barrier { reply } => group.tell(reply, Ok(())),
        // These read references, which a group does not know before it is written.
        Command::Collect { candidates, reply } => {
            group.commit();
            group = Group::new(shared);
            let result = group.collect(candidates);
            group.tell(reply, result);
        }
        Command::Lose { key, reply } => {
            group.commit();
            group = Group::new(shared);
            let result = group.lose(&key);
            group.answer(reply, result);
        }
    }
    group
}

/// Starts the writer.
pub(crate) fn spawn(shared: Arc<Shared>) -> Result<(mpsc::Sender<Command>, std::thread::JoinHandle<()>), Error> {
    let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
    let thread = std::thread::Builder::new()
        .name("blocks-writer".into())
        .spawn(move || run(&shared, receiver))
        .map_err(|error| Error::Thread(error.to_string()))?;
    Ok((sender, thread))
}
