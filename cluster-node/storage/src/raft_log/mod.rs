//! The Raft log: an engine on disk, one thread that writes to it, and the end of the log in memory.
//!
//! All writes go through one queue, so votes and entries reach the disk in the order in which they were made. The
//! thread takes whatever has gathered in the queue while the last sync ran, writes it as one batch and syncs once.
//! Entries can be read as soon as [`RaftLog::append`] returns; they are durable when its callback is called.

mod engine;
mod memory;
mod ring;
mod rocks;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot};

pub use engine::{LogEngine, LogHead, LogOp};
pub use memory::MemoryLogEngine;
pub use rocks::{LogOptions, LogStats, RocksLogEngine};

use ring::Ring;

/// Called once, when the write is durable or has failed.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A batch ends at this size, so that one sync does not become a second long.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// How the log is run.
#[derive(Debug, Clone)]
pub struct RaftLogOptions {
    /// Entries kept in memory besides those that are not written yet.
    pub ring_bytes: usize,
    /// Most writes waiting. Whoever makes more waits: the Raft core then takes in no more proposals.
    pub queue_len: usize,
    /// Write in the caller instead of a thread; for simulation, where threads would spoil the order of events.
    pub inline: bool,
}

impl Default for RaftLogOptions {
    fn default() -> Self {
        Self {
            ring_bytes: 8 << 20,
            queue_len: 1024,
            inline: false,
        }
    }
}

/// The log. Clones are handles to the same log.
#[derive(Clone)]
pub struct RaftLog {
    shared: Arc<Shared>,
}

/// The thread has no part in it: whoever lets go of it last waits for the thread, and then closes the engine itself. An
/// engine that a thread closes on its own may do so while the process exits, when what it needs is gone already.
struct Shared {
    engine: Arc<dyn LogEngine>,
    ring: Arc<RwLock<Ring>>,
    head: LogHead,
    /// Order of writes: a number is given out and queued by one caller at a time.
    writes: tokio::sync::Mutex<Writes>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Held for reading by each read of files that is under way, even if nobody waits for it any more.
    reads: Arc<tokio::sync::RwLock<()>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.writes.get_mut().queue = None;
        if let Some(thread) = self.thread.get_mut().take() {
            // A callback of a write may hold the last handle; a thread can't wait for itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

struct Writes {
    last: u64,
    /// `None` after [`RaftLog::close`], and when writing inline.
    queue: Option<mpsc::Sender<Write>>,
    inline: Option<Writer>,
}

struct Write {
    number: u64,
    ops: Vec<LogOp>,
    bytes: usize,
    sync: bool,
    done: Option<Done>,
}

/// What carries out the writes.
struct Writer {
    engine: Arc<dyn LogEngine>,
    /// The first error. After it nothing is written: a failed sync can't be repeated, because the system may have
    /// dropped the data that it could not write.
    failed: Option<(io::ErrorKind, String)>,
}

impl RaftLog {
    /// Starts on an engine.
    pub fn open(engine: Arc<dyn LogEngine>, options: &RaftLogOptions) -> io::Result<Self> {
        let head = engine.load()?;
        let next = match (&head.last, &head.purged) {
            (Some((index, _)), _) | (None, Some((index, _))) => index + 1,
            (None, None) => 0,
        };
        let writer = Writer {
            engine: Arc::clone(&engine),
            failed: None,
        };
        let mut writes = Writes {
            last: 0,
            queue: None,
            inline: None,
        };
        let mut receiver = None;
        let writer = if options.inline {
            writes.inline = Some(writer);
            None
        } else {
            let (sender, queue) = mpsc::channel(options.queue_len.max(1));
            writes.queue = Some(sender);
            receiver = Some(queue);
            Some(writer)
        };
        let ring = Arc::new(RwLock::new(Ring::new(next, options.ring_bytes)));
        let mut thread = None;
        if let (Some(writer), Some(queue)) = (writer, receiver) {
            let ring = Arc::clone(&ring);
            let run = move || writer.run(queue, &|number| ring.write().done(number));
            thread = Some(std::thread::Builder::new().name("raft-log".into()).spawn(run)?);
        }
        let shared = Arc::new(Shared {
            engine,
            ring,
            head,
            writes: tokio::sync::Mutex::new(writes),
            thread: Mutex::new(thread),
            reads: Arc::default(),
        });
        Ok(Self { shared })
    }

    /// What the log began with.
    pub fn head(&self) -> &LogHead {
        &self.shared.head
    }

    /// Adds entries, each the one after the last. They can be read when this returns, and `done` is called when they are
    /// durable.
    pub async fn append(&self, entries: Vec<(u64, Bytes)>, done: Done) -> io::Result<()> {
        let mut writes = self.shared.writes.lock().await;
        let number = writes.next();
        let mut ops = Vec::with_capacity(entries.len());
        let mut bytes = 0;
        {
            let mut ring = self.shared.ring.write();
            for (index, value) in entries {
                bytes += value.len();
                ring.push(index, value.clone(), number);
                ops.push(LogOp::Put { index, value });
            }
        }
        self.submit(
            &mut writes,
            Write {
                number,
                ops,
                bytes,
                sync: true,
                done: Some(done),
            },
        )
        .await
    }

    /// Writes down whose log this is, once: the number that a peer has in Raft. Votes and entries of one number must
    /// never be taken for those of another.
    ///
    /// # Errors
    /// `InvalidData` when the log is that of another number.
    pub async fn claim(&self, raft_id: u64) -> io::Result<()> {
        match self.shared.head.owner {
            Some(owner) if owner == raft_id => Ok(()),
            Some(owner) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the Raft log is that of Raft number {owner}, this peer has number {raft_id}"),
            )),
            None => self.write_and_wait(LogOp::Owner(raft_id)).await,
        }
    }

    /// Saves the vote; it is durable when this returns.
    pub async fn save_vote(&self, vote: Bytes) -> io::Result<()> {
        self.write_and_wait(LogOp::Vote(vote)).await
    }

    /// Saves how far the log is committed. Not synced: after a crash an older value does no harm.
    pub async fn save_committed(&self, committed: Bytes) -> io::Result<()> {
        self.enqueue(LogOp::Committed(committed), false, None).await
    }

    /// Removes the entries from `from` on; they are gone for good when this returns. A snapshot that takes their place
    /// is durable by itself: entries that came back beside it would be those of another history.
    pub async fn truncate(&self, from: u64) -> io::Result<()> {
        self.write_and_wait(LogOp::Truncate { from }).await
    }

    /// Removes the entries up to `upto`, which may be beyond the end of the log. Nobody reads them any more when this
    /// returns; the disk follows, the marker before the entries. Does not wait for the disk, where dropping files takes
    /// a while: a crash before it only keeps entries that a snapshot holds too. An error is that of the next write.
    pub async fn purge(&self, upto: u64, marker: Bytes) -> io::Result<()> {
        self.enqueue(LogOp::Purge { upto, marker }, false, None).await
    }

    /// Writes, and returns when it is durable.
    async fn write_and_wait(&self, op: LogOp) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        let done: Done = Box::new(move |result| {
            let _ = sender.send(result);
        });
        self.enqueue(op, true, Some(done)).await?;
        receiver.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn enqueue(&self, op: LogOp, sync: bool, done: Option<Done>) -> io::Result<()> {
        let mut writes = self.shared.writes.lock().await;
        let number = writes.next();
        match &op {
            LogOp::Truncate { from } => self.shared.ring.write().truncate(*from),
            LogOp::Purge { upto, .. } => self.shared.ring.write().purge(*upto),
            LogOp::Put { .. } | LogOp::Vote(_) | LogOp::Committed(_) | LogOp::Owner(_) => {}
        }
        let ops = vec![op];
        let write = Write {
            number,
            ops,
            bytes: 0,
            sync,
            done,
        };
        self.submit(&mut writes, write).await
    }

    /// The lock on `writes` is kept while the queue is full, so that writes stay in the order of their numbers.
    async fn submit(&self, writes: &mut Writes, write: Write) -> io::Result<()> {
        if let Some(writer) = &mut writes.inline {
            let number = write.number;
            writer.write(vec![write]);
            self.shared.ring.write().done(number);
            return Ok(());
        }
        match &writes.queue {
            Some(queue) => queue.send(write).await.map_err(|_| closed()),
            None => Err(closed()),
        }
    }

    /// Encoded entries from `start` to before `end`, of at most `bytes_max` but at least one. What was purged or is
    /// not there yet ends the answer. Reads files on a blocking thread, and only if the entries are not in memory.
    pub async fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Bytes>> {
        let mut values = Vec::new();
        let mut bytes = 0;
        loop {
            let next = start + values.len() as u64;
            let stored_end = {
                let ring = self.shared.ring.read();
                let end = end.min(ring.next());
                if next >= end || (bytes > 0 && bytes >= bytes_max) {
                    return Ok(values);
                }
                if next >= ring.first() {
                    ring.read(next, end, bytes_max, &mut values, &mut bytes);
                    return Ok(values);
                }
                end.min(ring.first())
            };
            let engine = Arc::clone(&self.shared.engine);
            let reading = Arc::clone(&self.shared.reads).read_owned().await;
            let room = bytes_max.saturating_sub(bytes);
            let read = move || {
                let stored = engine.read(next, stored_end, room);
                drop(engine);
                drop(reading);
                stored
            };
            let stored = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
            let stored_bytes: usize = stored.iter().map(Bytes::len).sum();
            // The engine answers with one entry at least if it has it; here one too many would break the bound.
            if stored.is_empty() || (bytes > 0 && stored_bytes > room) {
                return Ok(values);
            }
            bytes += stored_bytes;
            values.extend(stored);
        }
    }

    /// Lets the thread finish what is queued, and waits for it and for reads that are under way. Later writes fail. The
    /// engine is closed when the last handle is dropped.
    pub async fn close(&self) {
        self.shared.writes.lock().await.queue = None;
        let thread = self.shared.thread.lock().take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        drop(self.shared.reads.write().await);
    }
}

impl Writes {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Write>, finished: &dyn Fn(u64)) {
        while let Some(first) = queue.blocking_recv() {
            let mut bytes = first.bytes;
            let mut number = first.number;
            let mut batch = vec![first];
            while bytes < BATCH_BYTES_MAX {
                let Ok(write) = queue.try_recv() else { break };
                bytes += write.bytes;
                number = write.number;
                batch.push(write);
            }
            if self.write(batch) {
                finished(number);
            }
        }
    }

    /// Writes a batch and tells everyone who waits for it.
    fn write(&mut self, batch: Vec<Write>) -> bool {
        let sync = batch.iter().any(|write| write.sync);
        let mut ops = Vec::with_capacity(batch.iter().map(|write| write.ops.len()).sum());
        let mut waiting = Vec::with_capacity(batch.len());
        for write in batch {
            ops.extend(write.ops);
            waiting.extend(write.done);
        }
        if self.failed.is_none()
            && let Err(error) = self.engine.write(ops, sync)
        {
            tracing::error!(%error, "the Raft log can't be written; this peer leaves service");
            self.failed = Some((error.kind(), error.to_string()));
        }
        for done in waiting {
            done(match &self.failed {
                None => Ok(()),
                Some((kind, message)) => Err(io::Error::new(*kind, message.clone())),
            });
        }
        self.failed.is_none()
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the Raft log is closed")
}
