//! Snapshots of the state: checkpoints on disk, sent and received file by file.
//!
//! A snapshot is a folder `snap-INDEX` of links to files of the state, and a file `META` in which the consensus layer
//! says what it is. There is one at a time; it holds on to files that compaction would have freed. An older one stays
//! until nobody sends it any more.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use node_core::pinset::KvRead;
use parking_lot::Mutex;
use xxhash_rust::xxh3::Xxh3;

use crate::StoreError;
use crate::files;
use crate::state::{StateDb, StateStore};

const META: &str = "META";
const SNAPSHOT: &str = "snap-";
const BUILDING: &str = "tmp-";

/// Most bytes of a file that are sent at a time.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// More files than any state has: refused before anything is written.
const FILES_MAX: usize = 100_000;

/// Where a peer's snapshots are.
pub struct SnapshotStore {
    folder: PathBuf,
    current: Mutex<Option<Arc<Snapshot>>>,
    /// One is built at a time.
    building: Mutex<()>,
}

/// A snapshot on disk. Its files stay while someone holds it.
#[derive(Debug)]
pub struct Snapshot {
    folder: PathBuf,
    index: u64,
    meta: Bytes,
    files: Vec<SnapshotFile>,
    doomed: AtomicBool,
}

/// One of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Without folder.
    pub name: String,
    /// In bytes.
    pub size: u64,
}

impl SnapshotStore {
    /// Opens the snapshots in `folder`, which is made when it is not there, and removes what a crash left half done.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        files::make_folder(folder)?;
        let mut current = None;
        // Names end in the index in 20 digits, so the newest comes last.
        for name in files::names(folder)?.into_iter().rev() {
            let path = folder.join(&name);
            let index = name.strip_prefix(SNAPSHOT).and_then(|index| index.parse().ok());
            match (index, &current) {
                (Some(index), None) => current = Some(Arc::new(Snapshot::load(path, index)?)),
                (Some(_), Some(_)) => files::remove_folder(&path)?,
                (None, _) if name.starts_with(BUILDING) || name.starts_with(files::DOOMED) => {
                    files::remove_folder(&path)?;
                }
                (None, _) => {}
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            current: Mutex::new(current),
            building: Mutex::new(()),
        })
    }

    /// The newest one.
    pub fn current(&self) -> Option<Arc<Snapshot>> {
        self.current.lock().clone()
    }

    /// Takes a snapshot. `describe` reads from it, not from the state, which goes on meanwhile: it returns the log index
    /// and what goes into `META`. Blocking; takes as long as writing out what is in memory.
    pub fn build(
        &self,
        state: &StateStore,
        describe: impl FnOnce(&dyn KvRead) -> Result<(u64, Bytes), StoreError>,
    ) -> Result<Arc<Snapshot>, StoreError> {
        let _building = self.building.lock();
        let building = self.folder.join(files::fresh_name(BUILDING));
        let built = self.build_in(&building, state, describe);
        if built.is_err() {
            files::remove_folder_later(building);
        }
        built
    }

    fn build_in(
        &self,
        building: &Path,
        state: &StateStore,
        describe: impl FnOnce(&dyn KvRead) -> Result<(u64, Bytes), StoreError>,
    ) -> Result<Arc<Snapshot>, StoreError> {
        state.checkpoint(building)?;
        let (index, meta) = describe(&StateDb::open_checkpoint(building)?)?;
        let path = building.join(META);
        fs::write(&path, &meta).map_err(StoreError::io(&path))?;
        for name in files::names(building)? {
            // Tables were synced when they were written; the others are small.
            if !name.ends_with(".sst") {
                files::sync_file(&building.join(name))?;
            }
        }
        files::sync_folder(building)?;
        let target = self.folder.join(format!("{SNAPSHOT}{index:020}"));
        // Only here it is replaced, one build at a time. The lock is not kept over the disk's work below: the Raft core
        // and everyone who asks for the newest one would wait for it.
        let current = self.current();
        if let Some(current) = current.filter(|current| current.folder == target) {
            // Nothing was applied since; what is being sent must not change under the sender.
            files::remove_folder_later(building.to_owned());
            return Ok(current);
        }
        files::remove_folder(&target)?;
        files::rename(building, &target)?;
        let built = Arc::new(Snapshot::load(target, index)?);
        let old = self.current.lock().replace(Arc::clone(&built));
        if let Some(old) = old {
            old.doomed.store(true, Ordering::Release);
        }
        Ok(built)
    }
}

impl Snapshot {
    fn load(folder: PathBuf, index: u64) -> Result<Self, StoreError> {
        let path = folder.join(META);
        let meta = fs::read(&path).map_err(StoreError::io(&path))?.into();
        let mut all = Vec::new();
        for name in files::names(&folder)? {
            let path = folder.join(&name);
            if sent(&name) {
                let size = fs::metadata(&path).map_err(StoreError::io(&path))?.len();
                all.push(SnapshotFile { name, size });
            }
        }
        Ok(Self {
            folder,
            index,
            meta,
            files: all,
            doomed: AtomicBool::new(false),
        })
    }

    /// The log index up to which everything is in it.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// What the consensus layer said of it.
    pub fn meta(&self) -> &Bytes {
        &self.meta
    }

    /// Its files.
    pub fn files(&self) -> &[SnapshotFile] {
        &self.files
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Reads it for another peer.
    pub fn reader(self: &Arc<Self>) -> SnapshotReader {
        SnapshotReader {
            snapshot: Arc::clone(self),
            next: 0,
            open: None,
        }
    }

    /// Copies it into a folder that [`StateStore::install`] may take: tables as links, as they never change.
    pub fn copy_to(&self, folder: &Path) -> Result<(), StoreError> {
        fs::create_dir(folder).map_err(StoreError::io(folder))?;
        for file in &self.files {
            let (from, to) = (self.folder.join(&file.name), folder.join(&file.name));
            if !file.name.ends_with(".sst") || fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).map_err(StoreError::io(&to))?;
                files::sync_file(&to)?;
            }
        }
        files::sync_folder(folder)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if self.doomed.load(Ordering::Acquire) {
            files::remove_folder_later(self.folder.clone());
        }
    }
}

/// RocksDB's own log and lock are of no use elsewhere.
fn sent(name: &str) -> bool {
    name != META && name != "LOCK" && !name.starts_with("LOG")
}

/// What is sent, one after the other: the pieces of a file, its end, the next file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The next piece of the current file.
    Data(Bytes),
    /// The current file is complete; this is the XXH3 of its content.
    FileEnd(u64),
}

/// Reads a snapshot's files in order. Blocking.
pub struct SnapshotReader {
    snapshot: Arc<Snapshot>,
    next: usize,
    open: Option<(File, Xxh3, u64)>,
}

impl SnapshotReader {
    /// The next frame; `None` after the last file.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, StoreError> {
        let Some(file) = self.snapshot.files.get(self.next) else {
            return Ok(None);
        };
        let path = self.snapshot.folder.join(&file.name);
        let (open, hash, left) = match &mut self.open {
            Some(open) => open,
            None => {
                let open = File::open(&path).map_err(StoreError::io(&path))?;
                self.open.insert((open, Xxh3::new(), file.size))
            }
        };
        if *left == 0 {
            let digest = hash.digest();
            self.open = None;
            self.next += 1;
            return Ok(Some(Frame::FileEnd(digest)));
        }
        let mut piece = vec![0; FRAME_BYTES_MAX.min(usize::try_from(*left).unwrap_or(FRAME_BYTES_MAX))];
        open.read_exact(&mut piece).map_err(StoreError::io(&path))?;
        hash.update(&piece);
        *left -= piece.len() as u64;
        Ok(Some(Frame::Data(piece.into())))
    }
}

/// Receives a snapshot into a folder of its own, which goes when it is dropped unfinished. Blocking.
pub struct SnapshotReceiver {
    incoming: Incoming,
    files: Vec<SnapshotFile>,
    next: usize,
    open: Option<(File, Xxh3, u64)>,
}

/// A snapshot that was received whole and is what the sender sent. Its folder goes when it is dropped.
#[derive(Debug)]
pub struct Incoming {
    folder: PathBuf,
}

impl SnapshotReceiver {
    /// Begins to receive these files into `folder`, which must not exist.
    pub fn new(folder: PathBuf, expected: Vec<SnapshotFile>) -> Result<Self, StoreError> {
        check_files(&expected)?;
        files::make_folder(&folder)?;
        Ok(Self {
            incoming: Incoming { folder },
            files: expected,
            next: 0,
            open: None,
        })
    }

    /// Takes the next frame.
    pub fn accept(&mut self, frame: Frame) -> Result<(), StoreError> {
        let Some(file) = self.files.get(self.next) else {
            return Err(refused("there is more of it than was announced"));
        };
        let path = self.incoming.folder.join(&file.name);
        let (open, hash, written) = match &mut self.open {
            Some(open) => open,
            None => {
                let open = File::create_new(&path).map_err(StoreError::io(&path))?;
                self.open.insert((open, Xxh3::new(), 0))
            }
        };
        match frame {
            Frame::Data(piece) => {
                *written += piece.len() as u64;
                if piece.is_empty() || piece.len() > FRAME_BYTES_MAX || *written > file.size {
                    return Err(refused(&format!("{} is not as long as was announced", file.name)));
                }
                hash.update(&piece);
                open.write_all(&piece).map_err(StoreError::io(&path))
            }
            Frame::FileEnd(digest) => {
                if *written != file.size {
                    return Err(refused(&format!("{} is not as long as was announced", file.name)));
                }
                if hash.digest() != digest {
                    return Err(refused(&format!("{} is damaged: its checksum is another", file.name)));
                }
                open.sync_all().map_err(StoreError::io(&path))?;
                self.open = None;
                self.next += 1;
                Ok(())
            }
        }
    }

    /// All files are here and on disk.
    pub fn finish(self) -> Result<Incoming, StoreError> {
        if self.next < self.files.len() || self.open.is_some() {
            return Err(refused("it ended early"));
        }
        files::sync_folder(&self.incoming.folder)?;
        Ok(self.incoming)
    }
}

impl Incoming {
    /// Where it is. [`StateStore::install`] renames it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Looks into it before it is installed: what is found wrong now costs the transfer, and later the peer. Blocking.
    pub fn read<R>(&self, read: impl FnOnce(&dyn KvRead) -> R) -> Result<R, StoreError> {
        Ok(read(&StateDb::open_checkpoint(&self.folder)?))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.folder.exists() {
            files::remove_folder_later(self.folder.clone());
        }
    }
}

fn check_files(expected: &[SnapshotFile]) -> Result<(), StoreError> {
    if expected.len() > FILES_MAX {
        return Err(refused("it has too many files"));
    }
    let mut seen = std::collections::BTreeSet::new();
    for SnapshotFile { name, .. } in expected {
        // Names come from another machine: nothing but plain names of RocksDB's files gets near the file system.
        let plain = !name.is_empty()
            && name.len() <= 64
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
            && !name.starts_with('.');
        if !plain || !sent(name) || !seen.insert(name) {
            return Err(refused(&format!("{name:?} is no file of a snapshot")));
        }
    }
    Ok(())
}

fn refused(reason: &str) -> StoreError {
    StoreError::Corrupt(format!("the snapshot is refused: {reason}"))
}
