//! Writes a tar archive to a disk, trusting nothing in it.
//!
//! Everything is made in a folder that was empty and is nobody else's, nothing in it is ever replaced, and nothing is
//! made below what is not a directory itself. So no entry can lead through a symlink, whatever names it has, and a name
//! that comes twice is an error. Only files, directories and symlinks are made: what else an archive may hold has no place
//! in content. Of a mode the permission bits are taken, without set-user-ID and the like; directories stay writable for
//! their owner, or what lies in them could not be moved and removed.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tar::{Archive, Entry, EntryType};

use super::names;
use crate::exit::Failure;
use crate::output::words;

/// What may stand in an archive in front of one entry: long names and the like. The longest path takes 4 KiB.
pub const HEADER_BYTES_MAX: u64 = 1 << 20;
/// Read and written at once.
const BUFFER_BYTES: usize = 256 << 10;
/// Symlinks that are named when they were left out; the rest is counted.
const NAMED_MAX: usize = 20;

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// How many files.
    pub files: u64,
    /// How many directories.
    pub directories: u64,
    /// How many symlinks.
    pub symlinks: u64,
    /// In all files.
    pub bytes: u64,
    /// Symlinks that were left out.
    pub left_out: u64,
    /// The first of them: path and target.
    pub named: Vec<(String, String)>,
    /// Whether anything was made for the root.
    pub has_root: bool,
}

/// Takes from the reader no more than was allowed.
struct Bounded<R> {
    reader: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "more than {} stand in front of an entry",
                    words::bytes(HEADER_BYTES_MAX)
                ),
            ));
        }
        let room = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.reader.read(&mut buffer[..room])?;
        self.left.set(left - count as u64);
        Ok(count)
    }
}

/// A directory that entries are written to.
struct Folder {
    name: Vec<u8>,
    place: PathBuf,
    /// Set when all that is in it was written, for that changes it.
    modified: Option<SystemTime>,
}

struct Unpacking<'a> {
    root: &'a Path,
    all_symlinks: bool,
    on_file: &'a dyn Fn(u64),
    root_name: Vec<u8>,
    /// The directories that lead to where we are, the root first. At most as many as a path has names.
    folders: Vec<Folder>,
    done: Unpacked,
    buffer: Vec<u8>,
}

/// Writes what is in the archive to `root`, whose name must be free, in a folder that is nobody else's. The first name of
/// all entries, which must be the same, stands for `root`. `on_file` is told the bytes of each file before it comes.
pub fn unpack(archive: impl Read, root: &Path, all_symlinks: bool, on_file: &dyn Fn(u64)) -> Result<Unpacked, Failure> {
    let left = Rc::new(Cell::new(0));
    let mut archive = Archive::new(Bounded {
        reader: archive,
        left: Rc::clone(&left),
    });
    let mut unpacking = Unpacking {
        root,
        all_symlinks,
        on_file,
        root_name: Vec::new(),
        folders: Vec::new(),
        done: Unpacked::default(),
        buffer: vec![0; BUFFER_BYTES],
    };
    let mut entries = archive.entries().map_err(|error| unreadable(&error))?;
    loop {
        left.set(HEADER_BYTES_MAX);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(|error| unreadable(&error))?;
        left.set(u64::MAX);
        unpacking.entry(&mut entry)?;
    }
    // Behind the end of an archive comes nothing but its padding.
    left.set(HEADER_BYTES_MAX);
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(|error| unreadable(&error))?;
    unpacking.leave(0)?;
    if unpacking.root_name.is_empty() {
        return Err(Failure::local("the archive is empty").hint("the log of the peer says more"));
    }
    Ok(unpacking.done)
}

fn unreadable(error: &io::Error) -> Failure {
    Failure::local(format!("can't read the archive: {error}"))
        .hint("get it with --tar to look into it; the log of the peer says more")
}

fn hostile(path: &[u8], why: &str) -> Failure {
    let path = String::from_utf8_lossy(path);
    Failure::local(format!("the archive has an entry {path:?} that is not written: {why}"))
        .hint("no peer sends this when all is well; nothing was kept; get it with --tar to look into it")
}

fn cant_write(path: &[u8], error: &io::Error) -> Failure {
    let path = String::from_utf8_lossy(path);
    let failure = Failure::local(format!("can't write {path}: {error}"));
    match error.kind() {
        io::ErrorKind::AlreadyExists => failure.hint("the archive has it twice; nothing was kept"),
        io::ErrorKind::InvalidFilename => {
            failure.hint("this file system can't hold the name; get it with --tar, which can")
        }
        io::ErrorKind::StorageFull => failure.hint("nothing was kept; --to PATH writes it elsewhere"),
        _ => failure,
    }
}

impl Unpacking<'_> {
    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), Failure> {
        let path = entry.path_bytes().into_owned();
        let kind = entry.header().entry_type();
        match kind {
            EntryType::Regular | EntryType::Directory | EntryType::Symlink => {}
            EntryType::XGlobalHeader => return Ok(()),
            EntryType::Link => return Err(hostile(&path, "it is a hard link")),
            EntryType::Char | EntryType::Block => return Err(hostile(&path, "it is a device")),
            EntryType::Fifo => return Err(hostile(&path, "it is a named pipe")),
            _ => return Err(hostile(&path, "it is of a kind that content does not have")),
        }
        let names = names::split(&path).map_err(|why| hostile(&path, why))?;
        if path.ends_with(b"/") && kind != EntryType::Directory {
            return Err(hostile(&path, "it is no directory but called like one"));
        }
        let (first, below) = names.split_first().expect("at least one name");
        if self.root_name.is_empty() {
            self.root_name = first.to_vec();
        } else if self.root_name != *first {
            return Err(hostile(&path, "it lies beside what was asked for"));
        }
        let place = match below.split_last() {
            None => self.root.to_owned(),
            Some((last, parents)) => self.enter(&path, parents)?.join(OsStr::from_bytes(last)),
        };
        let header = entry.header();
        let mode = header.mode().unwrap_or(0) & 0o777;
        let modified = header.mtime().ok().filter(|seconds| *seconds > 0);
        let modified = modified.and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        match kind {
            EntryType::Directory => {
                // What has no mode has 0.
                let mode = if mode == 0 { 0o755 } else { mode | 0o700 };
                let made = DirBuilder::new().mode(mode).create(&place);
                made.map_err(|error| cant_write(&path, &error))?;
                self.done.directories += 1;
                self.folders.push(Folder {
                    name: names.last().map_or_else(Vec::new, |name| name.to_vec()),
                    place,
                    modified,
                });
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().map(|target| target.into_owned());
                self.symlink(&path, &place, below.len(), &target.unwrap_or_default())?;
            }
            _ => {
                let mode = if mode == 0 { 0o644 } else { mode };
                self.file(entry, &path, &place, mode, modified)?;
            }
        }
        self.done.has_root |= below.is_empty() && place_is_made(self.root);
        Ok(())
    }

    /// The directory that an entry lies in. Below what is not a directory itself nothing is made.
    fn enter(&mut self, path: &[u8], parents: &[&[u8]]) -> Result<PathBuf, Failure> {
        let wanted = std::iter::once(self.root_name.as_slice()).chain(parents.iter().copied());
        let wanted: Vec<Vec<u8>> = wanted.map(<[u8]>::to_vec).collect();
        let same = self
            .folders
            .iter()
            .zip(&wanted)
            .take_while(|(folder, name)| folder.name == **name);
        let same = same.count();
        self.leave(same)?;
        let mut place = match self.folders.last() {
            Some(folder) => folder.place.clone(),
            None => PathBuf::new(),
        };
        for (index, name) in wanted.into_iter().enumerate().skip(same) {
            place = match index {
                0 => self.root.to_owned(),
                _ => place.join(OsStr::from_bytes(&name)),
            };
            // Made before, and left since.
            let modified = match place.symlink_metadata() {
                // What is written now changes it, and it may have got its time already.
                Ok(data) if data.is_dir() => data.modified().ok(),
                Ok(data) if data.is_symlink() => return Err(hostile(path, "it leads through a symlink")),
                Ok(_) => return Err(hostile(path, "it lies below what is no directory")),
                Err(_) => return Err(hostile(path, "the directory that it lies in does not come before it")),
            };
            self.folders.push(Folder {
                name,
                place: place.clone(),
                modified,
            });
        }
        Ok(place)
    }

    /// Leaves directories until so many are left.
    fn leave(&mut self, depth: usize) -> Result<(), Failure> {
        while self.folders.len() > depth {
            let Some(folder) = self.folders.pop() else { break };
            if let Some(modified) = folder.modified {
                let set = File::open(&folder.place).and_then(|open| open.set_modified(modified));
                set.map_err(|error| cant_write(&folder.name, &error))?;
            }
        }
        Ok(())
    }

    fn symlink(&mut self, path: &[u8], place: &Path, names_below: usize, target: &[u8]) -> Result<(), Failure> {
        // The root itself leads to what lies beside it.
        let is_safe = names_below > 0 && names::stays_inside(names_below - 1, target);
        if !is_safe && !self.all_symlinks {
            self.done.left_out += 1;
            if self.done.named.len() < NAMED_MAX {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                self.done.named.push((text(path), text(target)));
            }
            return Ok(());
        }
        symlink(OsStr::from_bytes(target), place).map_err(|error| cant_write(path, &error))?;
        self.done.symlinks += 1;
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        path: &[u8],
        place: &Path,
        mode: u32,
        modified: Option<SystemTime>,
    ) -> Result<(), Failure> {
        let bytes = entry.size();
        (self.on_file)(bytes);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(place)
            .map_err(|error| cant_write(path, &error))?;
        let mut written = 0;
        loop {
            let count = match entry.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(&error)),
            };
            let piece = &self.buffer[..count];
            file.write_all(piece).map_err(|error| cant_write(path, &error))?;
            written += count as u64;
        }
        if written != bytes {
            return Err(unreadable(&io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some(modified) = modified {
            file.set_modified(modified).map_err(|error| cant_write(path, &error))?;
        }
        self.done.files += 1;
        self.done.bytes += bytes;
        Ok(())
    }
}

fn place_is_made(root: &Path) -> bool {
    fs::symlink_metadata(root).is_ok()
}

#[cfg(test)]
mod tests;
