//! The store as its users see it.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cluster_dag::{Block, DagError};
use node_core::{Cid, Timestamp};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::db::{NOTE_PREFIX, Shared};
use crate::key::{Key, Links, codec_bit};
use crate::options::{KEPT, META, NOTES, PINS, StoreOptions};
use crate::rows::{Meta, Record, read_kept};
use crate::writer::{self, Command, Counted, Incoming, Reply};
use crate::{Error, Mode, PIN_NAME_BYTES_MAX, Pin};

/// Longest name of a note, in bytes.
pub const NOTE_NAME_BYTES_MAX: usize = 128;

/// Longest value of a note, in bytes. Notes are positions and the like, not files.
pub const NOTE_BYTES_MAX: usize = 64 << 10;

/// Bytes of blocks of one call that are handed to the writer at once, and one block more: what one call brings must not
/// make a batch that all others wait long for.
const PUT_BYTES_MAX: usize = 4 << 20;

/// Kept roots looked at together.
const KEPT_PAGE: usize = 1_024;

/// What the store holds. From memory, exact as of the last batch written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blocks.
    pub blocks: u64,
    /// Their bytes, without what the database adds; for that see [`BlockStore::disk_bytes`].
    pub bytes: u64,
    /// Pins.
    pub pins: u64,
    /// Pins among them that are not complete.
    pub walking: u64,
    /// Blocks that were removed because they were corrupt, are still referred to, and have not come back yet.
    pub lost: u64,
}

/// The open store; a clone is another handle to it.
///
/// Plain functions read or wait, so they belong on threads that may block. Async functions write; when they return, what
/// they did is synced to disk. Dropping such a future does not undo what it asked for.
#[derive(Clone)]
pub struct BlockStore {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    commands: Mutex<Option<mpsc::Sender<Command>>>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
    room: Arc<Semaphore>,
    room_bytes: u32,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end();
    }
}

impl Inner {
    /// Lets the writer finish what was handed in, and waits for it.
    fn end(&self) {
        drop(self.commands.lock().take());
        if let Some(writer) = self.writer.lock().take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of the block store panicked");
        }
    }
}

/// An open add: what is put under it is not collected before it is dropped, though nothing refers to it yet.
///
/// It lives in memory: after a crash there is none, and what was half added is garbage.
pub struct AddSession {
    shared: Arc<Shared>,
    epoch: u64,
}

impl Drop for AddSession {
    fn drop(&mut self) {
        self.shared.end_session(self.epoch);
    }
}

impl std::fmt::Debug for AddSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AddSession({})", self.epoch)
    }
}

impl std::fmt::Debug for BlockStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlockStore({:?})", self.usage())
    }
}

impl BlockStore {
    /// Opens the store in a folder, which is made when it is missing. What a crash interrupted is as if it had not begun,
    /// or done.
    pub fn open(folder: &Path, options: &StoreOptions) -> Result<Self, Error> {
        let shared = Arc::new(Shared::open(folder, options)?);
        let (commands, writer) = writer::spawn(Arc::clone(&shared))?;
        // A block of the longest kind must fit.
        let bytes = options.queue_bytes.clamp(4 << 20, 1 << 30);
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                commands: Mutex::new(Some(commands)),
                writer: Mutex::new(Some(writer)),
                room: Arc::new(Semaphore::new(bytes)),
                room_bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            }),
        })
    }

    /// Ends the writer after what was handed in, and writes what is in memory to files so that the next start has no log
    /// to read. Later writes fail with [`Error::Closed`]. The database itself closes with the last handle.
    pub fn close(&self) -> Result<(), Error> {
        self.inner.end();
        self.flush()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    // ---- reading ----

    /// The bytes of a block. They were checked when they came, and are checked by RocksDB's checksums on the way.
    pub fn get(&self, cid: &Cid) -> Result<Option<Bytes>, Error> {
        Ok(self.get_many(std::slice::from_ref(cid))?.pop().flatten())
    }

    /// The bytes of several blocks, in the order asked. Identity CIDs are answered from themselves.
    pub fn get_many(&self, cids: &[Cid]) -> Result<Vec<Option<Bytes>>, Error> {
        let keys: Vec<Key> = cids.iter().map(Key::of).collect();
        let mut found = self.shared().bytes(&keys)?;
        for (cid, found) in cids.iter().zip(&mut found) {
            if found.is_none() {
                *found = Block::inline(*cid).map(|block| block.into_parts().1);
            }
        }
        Ok(found)
    }

    /// The sizes of several blocks in bytes, in the order asked; none for those that are not stored. Reads no block.
    pub fn sizes(&self, cids: &[Cid]) -> Result<Vec<Option<usize>>, Error> {
        let keys: Vec<Key> = cids.iter().map(Key::of).collect();
        let metas = self.shared().metas(&keys)?;
        let size = |(cid, meta): (&Cid, Option<Meta>)| match meta {
            Some(meta) if !meta.lost => Some(meta.size as usize),
            _ => Block::inline(*cid).map(|block| block.bytes().len()),
        };
        Ok(cids.iter().zip(metas).map(size).collect())
    }

    /// Whether a block is stored. Identity CIDs always are.
    pub fn has(&self, cid: &Cid) -> Result<bool, Error> {
        Ok(self.sizes(std::slice::from_ref(cid))?[0].is_some())
    }

    /// At most `limit` stored blocks in the order of their multihashes, behind that of `after`: as CIDv1 of codec raw,
    /// since blocks are stored whatever codec they are read in, and with their sizes.
    pub fn blocks(&self, after: Option<&Cid>, limit: usize) -> Result<Vec<(Cid, usize)>, Error> {
        let mut out = Vec::new();
        let mut rows = self.shared().rows(META, None);
        seek_behind(&mut rows, after.map(Key::of).as_ref().map(AsRef::as_ref));
        while out.len() < limit
            && let Some((key, row)) = rows.item()
        {
            let meta = Meta::decode(row)?;
            if !meta.lost {
                out.push((Key::from_row(key).to_cid()?, meta.size as usize));
            }
            rows.next();
        }
        rows.status()?;
        Ok(out)
    }

    /// A pin.
    pub fn pin(&self, cid: &Cid) -> Result<Option<Pin>, Error> {
        Ok(self.shared().record(cid)?.map(|record| record.to_pin(*cid)))
    }

    /// At most `limit` pins in the order of their CIDs, behind `after`.
    pub fn pins(&self, after: Option<&Cid>, limit: usize) -> Result<Vec<Pin>, Error> {
        let mut out = Vec::new();
        let mut rows = self.shared().rows(PINS, None);
        seek_behind(&mut rows, after.map(Cid::to_bytes).as_deref());
        while out.len() < limit
            && let Some((key, row)) = rows.item()
        {
            out.push(Record::decode(row)?.to_pin(read_cid(key)?));
            rows.next();
        }
        rows.status()?;
        Ok(out)
    }

    /// Whether a stored block links to this one, or a recursive or depth-limited pin is of it. The former may be garbage
    /// that has not been collected yet, so it says that the block may lie below a pin, not that it does.
    pub fn is_referenced(&self, cid: &Cid) -> Result<bool, Error> {
        Ok(self.shared().refs(&[Key::of(cid)])?[0].hard > 0)
    }

    /// A note.
    pub fn note(&self, name: &str) -> Result<Option<Bytes>, Error> {
        let row = self.shared().rocks.get_cf(self.shared().table(NOTES), note_key(name))?;
        Ok(row.map(Bytes::from))
    }

    /// What the store holds.
    pub fn usage(&self) -> Usage {
        self.shared().usage()
    }

    /// Bytes of all files of the store, the write-ahead log among them. Looks at the folder.
    pub fn disk_bytes(&self) -> Result<u64, Error> {
        self.shared().disk_bytes()
    }

    /// Why the store takes no more writes; none while it does.
    pub fn fault(&self) -> Option<String> {
        self.shared().fault.lock().clone()
    }

    // ---- writing ----

    /// Opens an add. Under it **every** block has to be put, those too that are there already: a block that is only
    /// known to be there may be collected.
    pub fn begin_add(&self) -> AddSession {
        AddSession {
            shared: Arc::clone(self.shared()),
            epoch: self.shared().begin_session(),
        }
    }

    /// Stores blocks and counts what they link to. Any number of calls may be under way at once; those that wait share
    /// one sync. Blocks beyond the bytes of [`StoreOptions::queue_bytes`] wait for room.
    ///
    /// Without an add they are garbage unless something refers to them. Blocks of an unknown codec, or that are not what
    /// their codec says, are an [`Error::Content`], and then none of the call is stored. Identity CIDs are left out.
    pub async fn put(&self, session: Option<&AddSession>, blocks: Vec<Block>) -> Result<(), Error> {
        let blocks = blocks
            .into_iter()
            .filter(|block| Block::inline(block.cid()).is_none())
            .map(incoming)
            .collect::<Result<Vec<_>, _>>()?;
        let epoch = session.map(|session| session.epoch);
        let mut answers = Vec::new();
        let mut blocks = blocks.into_iter().peekable();
        while blocks.peek().is_some() {
            let (mut part, mut bytes) = (Vec::new(), 0);
            while bytes < PUT_BYTES_MAX
                && let Some(block) = blocks.next()
            {
                bytes += block.weight();
                part.push(block);
            }
            let room = self.room(bytes).await?;
            let (reply, answer) = oneshot::channel();
            let command = Command::Put {
                blocks: part,
                epoch,
                room,
                reply,
            };
            self.sender()?.send(command).await.map_err(|_| self.shared().gone())?;
            answers.push(answer);
        }
        for answer in answers {
            answer.await.map_err(|_| self.shared().gone())??;
        }
        Ok(())
    }

    /// Records a pin, from when on nothing that is found or fetched for it is collected; its [`crate::Walk`] makes it
    /// complete.
    ///
    /// A pin of this root and mode that is there goes on as it is, under the new name. One of another mode is replaced, and
    /// walked anew; what both hold is held all the time. A former recursive pin that is direct or depth-limited now holds
    /// what it held until the collection has passed (direct), or until it is removed (depth-limited).
    pub async fn pin_begin(&self, cid: Cid, mode: Mode, name: &str, now: Timestamp) -> Result<Pin, Error> {
        if name.len() > PIN_NAME_BYTES_MAX {
            return Err(Error::NameTooLong {
                cid: Box::new(cid),
                bytes: name.len(),
                max: PIN_NAME_BYTES_MAX,
            });
        }
        let name = name.to_owned();
        self.ask(|reply| Command::PinBegin {
            cid,
            mode,
            name,
            now,
            reply,
        })
        .await
    }

    /// Removes a pin, complete or not. False: there was none.
    pub async fn unpin(&self, cid: &Cid) -> Result<bool, Error> {
        let cid = *cid;
        self.ask(|reply| Command::Unpin { cid, reply }).await
    }

    /// Keeps everything below these roots from collections until a pin of theirs is complete, and at most until then, over
    /// restarts too. For content that was put, and that somebody is going to pin. Call it before the add ends; what of it is
    /// not in the store is not kept when it comes later.
    pub async fn keep(&self, roots: Vec<Cid>, until: Timestamp) -> Result<(), Error> {
        self.ask(|reply| Command::Keep { roots, until, reply }).await
    }

    /// Roots that are kept, and until when: at most `limit`, in the order of their CIDs, behind `after`.
    pub fn kept(&self, after: Option<&Cid>, limit: usize) -> Result<Vec<(Cid, Timestamp)>, Error> {
        let mut out = Vec::new();
        let mut rows = self.shared().rows(KEPT, None);
        seek_behind(&mut rows, after.map(Cid::to_bytes).as_deref());
        while out.len() < limit
            && let Some((key, row)) = rows.item()
        {
            out.push((read_cid(key)?, read_kept(row)?));
            rows.next();
        }
        rows.status()?;
        Ok(out)
    }

    /// Lets go of roots that were kept until now; a collection finds what nothing else holds. Blocks the thread.
    pub fn expire_kept(&self, now: Timestamp) -> Result<(), Error> {
        let mut after = None;
        loop {
            let page = self.kept(after.as_ref(), KEPT_PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            let over: Vec<Cid> = page
                .into_iter()
                .filter(|(_, until)| *until <= now)
                .map(|(root, _)| root)
                .collect();
            if !over.is_empty() {
                self.ask_blocking(|reply| Command::Expire {
                    roots: over,
                    now,
                    reply,
                })?;
            }
        }
    }

    /// Writes a note: a small named value for who uses the store. None removes it. At most [`NOTE_NAME_BYTES_MAX`] and
    /// [`NOTE_BYTES_MAX`].
    pub async fn set_note(&self, name: &str, value: Option<Bytes>) -> Result<(), Error> {
        let too_long = |field, bytes, max| Err(Error::NoteTooLong { field, bytes, max });
        if name.len() > NOTE_NAME_BYTES_MAX {
            return too_long("name", name.len(), NOTE_NAME_BYTES_MAX);
        }
        let bytes = value.as_ref().map_or(0, Bytes::len);
        if bytes > NOTE_BYTES_MAX {
            return too_long("value", bytes, NOTE_BYTES_MAX);
        }
        let key = note_key(name);
        self.ask(|reply| Command::Note { key, value, reply }).await
    }

    // ---- upkeep ----

    /// Gives the disk back what deleted blocks took, as far as that is worth it, instead of waiting for compactions to
    /// come by. For after a collection that deleted much; takes as long as rewriting the indexes and a quarter of the
    /// blob files, and writes go on meanwhile.
    pub fn reclaim(&self) -> Result<(), Error> {
        self.flush()?;
        let shared = self.shared();
        for name in [
            META,
            crate::options::REFS,
            crate::options::WALKS,
            crate::options::BLOCKS,
        ] {
            shared
                .rocks
                .compact_range_cf(shared.table(name), None::<&[u8]>, None::<&[u8]>);
        }
        Ok(())
    }

    /// Writes what is in memory to files, and so frees it. For when the store is idle.
    pub fn flush(&self) -> Result<(), Error> {
        let shared = self.shared();
        let tables = crate::options::FLUSHED.map(|name| shared.table(name));
        Ok(shared
            .rocks
            .flush_cfs_opt(&tables.iter().collect::<Vec<_>>(), &rocksdb::FlushOptions::default())?)
    }

    // ---- asking the writer ----

    /// Room for blocks in the queue.
    pub(crate) async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        // Whoever brings more than all the room there is has it in memory anyway.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, self.inner.room_bytes);
        let room = Arc::clone(&self.inner.room).acquire_many_owned(bytes).await;
        room.map_err(|_| Error::Closed)
    }

    pub(crate) fn sender(&self) -> Result<mpsc::Sender<Command>, Error> {
        match &*self.inner.commands.lock() {
            Some(sender) if self.fault().is_none() => Ok(sender.clone()),
            _ => Err(self.shared().gone()),
        }
    }

    pub(crate) async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let sender = self.sender()?;
        sender.send(command(reply)).await.map_err(|_| self.shared().gone())?;
        // The writer waits for its queue to be let go when the store is closed: not longer than needed.
        drop(sender);
        answer.await.map_err(|_| self.shared().gone())?
    }

    /// As [`Self::ask`], for threads that may block.
    pub(crate) fn ask_blocking<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let sender = self.sender()?;
        sender.blocking_send(command(reply)).map_err(|_| self.shared().gone())?;
        drop(sender);
        answer.blocking_recv().map_err(|_| self.shared().gone())?
    }
}

impl Incoming {
    /// Bytes of memory that it takes while it waits, roughly.
    pub(crate) fn weight(&self) -> usize {
        let links = self.counted.as_ref().map_or(0, |counted| counted.keys.len());
        self.bytes.len() + 64 * (links + 1)
    }
}

fn incoming(block: Block) -> Result<Incoming, DagError> {
    let (cid, bytes) = block.into_parts();
    let links = Links::read(&cid, &bytes, 1)?;
    Ok(Incoming {
        key: Key::of(&cid),
        counted: counted(&cid, links.keys),
        bytes,
    })
}

/// That links are to be counted; none for a codec without any, whose links could not be read either.
pub(crate) fn counted(cid: &Cid, keys: Vec<Key>) -> Option<Counted> {
    codec_bit(cid.codec()).map(|bit| Counted { bit, keys })
}

pub(crate) fn read_cid(row: &[u8]) -> Result<Cid, Error> {
    Cid::from_bytes(row).map_err(|error| Error::Damaged(format!("the CID of a pin: {error}")))
}

pub(crate) fn seek_behind(rows: &mut crate::db::Rows<'_>, after: Option<&[u8]>) {
    match after {
        Some(after) => {
            rows.seek(after);
            if rows.key() == Some(after) {
                rows.next();
            }
        }
        None => rows.seek_to_first(),
    }
}

fn note_key(name: &str) -> Vec<u8> {
    [NOTE_PREFIX, name.as_bytes()].concat()
}
