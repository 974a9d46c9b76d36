//! Adding entries one after another.

use std::sync::Arc;

use bytes::Bytes;
use cluster_dag::unixfs::{Added, Chunker, DirectoryBuilder, FileBuilder, Metadata, symlink};
use cluster_dag::{Block, DagError};

use super::{AddOptions, AddedEntry, Entry, EntryKind, Outcome, Progress, ROOTS_MAX, Root, STEP_BYTES_MAX};
use crate::batch::{BATCH_BLOCKS_MAX, Batcher};
use crate::names::{PATH_BYTES_MAX, bad};
use crate::{ContentError, Sink};

/// Entries of a directory from which on its blocks are made on a thread of their own, where the runtime has some: hashing
/// this many takes some ten milliseconds.
const LARGE_DIRECTORY_ENTRIES: usize = 16 * 1024;

type Observer = Box<dyn FnMut(AddedEntry) + Send>;

/// Adds entries that come one after another, depth first: all that lies in a directory comes together, in any order.
/// A directory that no entry names is made as soon as something in it comes.
///
/// ```no_run
/// # async fn add(sink: std::sync::Arc<dyn cluster_content::Sink>) -> Result<(), cluster_content::ContentError> {
/// use cluster_content::{AddOptions, Adder, Entry};
///
/// let mut adder = Adder::new(AddOptions::v1_2025(), sink)?;
/// adder.entry(Entry::file("folder/hello")).await?;
/// adder.write(b"hello "[..].into()).await?;
/// adder.write(b"world"[..].into()).await?;
/// let outcome = adder.finish().await?;
/// println!("{}", outcome.roots[0].cid);
/// # Ok(())
/// # }
/// ```
pub struct Adder {
    options: AddOptions,
    /// Bytes that are cut and hashed in one go.
    step: usize,
    batcher: Batcher,
    observer: Option<Observer>,
    /// Around all that comes, when it is wrapped.
    wrapper: Option<DirectoryBuilder>,
    /// The directories in which the entry lies that came last, the outermost first.
    open: Vec<OpenDirectory>,
    file: OpenFile,
    roots: Vec<Root>,
    entries: u64,
    content_bytes: u64,
    /// What made it useless.
    failed: Option<String>,
}

struct OpenDirectory {
    name: Vec<u8>,
    builder: DirectoryBuilder,
    /// Whether an entry named it, or only something in it.
    named: bool,
}

enum OpenFile {
    None,
    /// Its bytes go into this.
    Taken {
        name: Vec<u8>,
        builder: Box<FileBuilder>,
    },
    /// It is hidden; its bytes are dropped.
    LeftOut,
}

impl Adder {
    /// An adder. Options that make no DAG are refused.
    pub fn new(options: AddOptions, sink: Arc<dyn Sink>) -> Result<Self, ContentError> {
        options.unixfs.check()?;
        let wrapper = match options.wrap {
            true => Some(DirectoryBuilder::new(options.unixfs.clone(), options.unnamed_metadata)?),
            false => None,
        };
        let chunk = match options.unixfs.chunker {
            Chunker::Size(size) => size as usize,
            Chunker::Rabin { min, .. } => min as usize,
            Chunker::Buzhash => STEP_BYTES_MAX,
        };
        Ok(Self {
            // Chunks of one byte would make a quarter of a million blocks in one go.
            step: chunk.saturating_mul(BATCH_BLOCKS_MAX).clamp(1, STEP_BYTES_MAX),
            batcher: Batcher::new(sink),
            observer: None,
            wrapper,
            open: Vec::new(),
            file: OpenFile::None,
            roots: Vec::new(),
            entries: 0,
            content_bytes: 0,
            failed: None,
            options,
        })
    }

    /// Calls this for each entry when it is complete: files, symlinks, and directories after what is in them. It must be
    /// cheap and must not block.
    pub fn observe(mut self, observer: impl FnMut(AddedEntry) + Send + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// Begins the next entry; the one before is complete. After an error, here or elsewhere, or when the future was
    /// dropped before it was done, the adder is of no use.
    pub async fn entry(&mut self, entry: Entry) -> Result<(), ContentError> {
        self.enter()?;
        let result = self.begin(entry).await;
        self.leave(result)
    }

    /// Takes bytes of the file that was begun last. Done when there is room for more; blocks may still be on their way.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), ContentError> {
        self.enter()?;
        let result = self.take(bytes).await;
        self.leave(result)
    }

    /// How far it has come.
    pub fn progress(&self) -> Progress {
        Progress {
            entries: self.entries,
            content_bytes: self.content_bytes,
            blocks: self.batcher.blocks,
            block_bytes: self.batcher.block_bytes,
            stored_blocks: self.batcher.stored,
        }
    }

    /// Completes all that is open. When it is done, every block is with the sink. Without an entry it is an error.
    pub async fn finish(mut self) -> Result<Outcome, ContentError> {
        self.enter()?;
        self.close_file().await?;
        self.close_directories(0).await?;
        if let Some(wrapper) = self.wrapper.take() {
            if wrapper.is_empty() {
                return Err(nothing());
            }
            let added = self.directory(wrapper).await?;
            self.complete(Vec::new(), added)?;
        }
        if self.roots.is_empty() {
            return Err(nothing());
        }
        self.batcher.finish().await?;
        Ok(Outcome {
            progress: self.progress(),
            roots: self.roots,
        })
    }

    /// A call that does not come to its end, because it is dropped or fails, leaves the adder failed.
    fn enter(&mut self) -> Result<(), ContentError> {
        match &self.failed {
            Some(reason) => Err(ContentError::Failed(reason.clone())),
            None => {
                self.failed = Some("a call was given up in the middle".into());
                Ok(())
            }
        }
    }

    fn leave<T>(&mut self, result: Result<T, ContentError>) -> Result<T, ContentError> {
        self.failed = result.as_ref().err().map(ToString::to_string);
        result
    }

    async fn begin(&mut self, entry: Entry) -> Result<(), ContentError> {
        self.close_file().await?;
        let names = split(&entry.path, entry.kind == EntryKind::File)?;
        let is_hidden = names.iter().skip(1).any(|name| name.first() == Some(&b'.'));
        if is_hidden && !self.options.hidden {
            if entry.kind == EntryKind::File {
                self.file = OpenFile::LeftOut;
            }
            return Ok(());
        }
        let (name, parents) = names.split_last().ok_or_else(nothing)?;
        match entry.kind {
            EntryKind::Directory => self.begin_directory(&entry.path, &names, entry.metadata).await,
            EntryKind::File => {
                self.go_to(parents).await?;
                let builder = FileBuilder::new(self.options.unixfs.clone(), entry.metadata)?;
                self.file = OpenFile::Taken {
                    name: name.to_vec(),
                    builder: Box::new(builder),
                };
                Ok(())
            }
            EntryKind::Symlink(target) => {
                self.go_to(parents).await?;
                let batcher = &mut self.batcher;
                let mtime = entry.metadata.mtime;
                let added = symlink(&self.options.unixfs, &target, mtime, &mut |block| batcher.push(block))?;
                self.complete(name.to_vec(), added)?;
                Ok(self.batcher.room().await?)
            }
        }
    }

    async fn begin_directory(&mut self, path: &[u8], names: &[&[u8]], metadata: Metadata) -> Result<(), ContentError> {
        let is_open = self.common(names) == names.len();
        let (name, parents) = names.split_last().ok_or_else(nothing)?;
        if !is_open {
            self.go_to(parents).await?;
            return self.open(name, metadata, true);
        }
        self.close_directories(names.len()).await?;
        // It was made for something in it, and other metadata can't be added later.
        match self.open.last_mut() {
            Some(directory) if !directory.named && metadata == self.options.unnamed_metadata => directory.named = true,
            _ => {
                return Err(bad(
                    "path",
                    path,
                    "is a directory that comes twice, or after what is in it: it must come first, and once",
                ));
            }
        }
        Ok(())
    }

    async fn take(&mut self, bytes: Bytes) -> Result<(), ContentError> {
        for piece in bytes.chunks(self.step) {
            let batcher = &mut self.batcher;
            match &mut self.file {
                OpenFile::LeftOut => return Ok(()),
                OpenFile::None => {
                    return Err(bad("bytes", piece, "belong to no file: begin one with an entry first"));
                }
                OpenFile::Taken { builder, .. } => builder.write(piece, &mut |block| batcher.push(block))?,
            }
            self.content_bytes += piece.len() as u64;
            self.batcher.room().await?;
            if bytes.len() > self.step {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Completes the file that is open, if one is.
    async fn close_file(&mut self) -> Result<(), ContentError> {
        if let OpenFile::Taken { name, builder } = std::mem::replace(&mut self.file, OpenFile::None) {
            let batcher = &mut self.batcher;
            let added = builder.finish(&mut |block| batcher.push(block))?;
            self.complete(name, added)?;
            self.batcher.room().await?;
        }
        Ok(())
    }

    /// How many of the open directories are the first of these.
    fn common(&self, names: &[&[u8]]) -> usize {
        let pairs = self.open.iter().zip(names);
        pairs.take_while(|(open, name)| open.name == **name).count()
    }

    /// Closes and opens directories until exactly these are open.
    async fn go_to(&mut self, names: &[&[u8]]) -> Result<(), ContentError> {
        let common = self.common(names);
        self.close_directories(common).await?;
        for name in &names[common..] {
            self.open(name, self.options.unnamed_metadata, false)?;
        }
        Ok(())
    }

    fn open(&mut self, name: &[u8], metadata: Metadata, named: bool) -> Result<(), ContentError> {
        self.open.push(OpenDirectory {
            name: name.to_vec(),
            builder: DirectoryBuilder::new(self.options.unixfs.clone(), metadata)?,
            named,
        });
        Ok(())
    }

    /// Completes open directories, the innermost first, until so many are left.
    async fn close_directories(&mut self, left: usize) -> Result<(), ContentError> {
        while self.open.len() > left {
            if let Some(OpenDirectory { name, builder, .. }) = self.open.pop() {
                let added = self.directory(builder).await?;
                self.complete(name, added)?;
            }
        }
        Ok(())
    }

    /// Makes the blocks of a directory: all at once, about as large as the entries, which are in memory anyway.
    async fn directory(&mut self, builder: DirectoryBuilder) -> Result<Added, ContentError> {
        let is_large = builder.len() >= LARGE_DIRECTORY_ENTRIES;
        let make = move || {
            let mut blocks = Vec::new();
            let added = builder.finish(&mut |block| blocks.push(block))?;
            Ok((added, blocks))
        };
        let made: Result<(Added, Vec<Block>), DagError> = match tokio::runtime::Handle::try_current() {
            Ok(runtime) if is_large => runtime
                .spawn_blocking(make)
                .await
                .map_err(|error| ContentError::Failed(error.to_string()))?,
            _ => make(),
        };
        let (added, blocks) = made?;
        for blocks in blocks.chunks(BATCH_BLOCKS_MAX) {
            for block in blocks {
                self.batcher.push(block.clone());
            }
            self.batcher.room().await?;
        }
        Ok(added)
    }

    /// Links to what is complete, from the innermost open directory, the wrapper or nowhere.
    fn complete(&mut self, name: Vec<u8>, added: Added) -> Result<(), ContentError> {
        let is_wrapper = self.options.wrap && self.wrapper.is_none();
        // What came without a name has that of its CID, as in Kubo, as soon as it needs one.
        let name = match name.is_empty() && !is_wrapper && self.options.wrap {
            true => added.cid.to_string().into_bytes(),
            false => name,
        };
        self.entries += u64::from(!is_wrapper);
        if let Some(observer) = &mut self.observer {
            let mut path = Vec::new();
            for directory in &self.open {
                path.extend_from_slice(&directory.name);
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            observer(AddedEntry {
                path,
                cid: added.cid,
                tsize: added.tsize,
            });
        }
        match (self.open.last_mut(), &mut self.wrapper) {
            (Some(directory), _) => directory.builder.add(&name, &added)?,
            (None, Some(wrapper)) => wrapper.add(&name, &added)?,
            (None, None) if self.roots.len() == ROOTS_MAX => {
                return Err(bad(
                    "path",
                    &name,
                    "is one top-level entry too many: at most 1024 can be added at once, unless they are wrapped",
                ));
            }
            (None, None) => self.roots.push(Root {
                name,
                cid: added.cid,
                tsize: added.tsize,
            }),
        }
        Ok(())
    }
}

/// The names of a path. A file may have none.
fn split(path: &[u8], is_file: bool) -> Result<Vec<&[u8]>, ContentError> {
    if path.len() > PATH_BYTES_MAX {
        return Err(bad("path", path, "is longer than the 4096 bytes that a path may have"));
    }
    if path.is_empty() && is_file {
        return Ok(vec![path]);
    }
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    if names.iter().any(|name| matches!(*name, b"" | b"." | b"..")) {
        return Err(bad(
            "path",
            path,
            "is no path of an entry: it must have names with one \"/\" between them, none of them \".\" or \"..\"",
        ));
    }
    Ok(names)
}

fn nothing() -> ContentError {
    bad("entries:", b"none", "were given: there is nothing to add")
}
