//! Content as a tar archive.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use async_stream::try_stream;
use bytes::Bytes;
use cluster_dag::DagError;
use cluster_dag::unixfs::{Metadata, Mtime, Node};
use futures::StreamExt as _;
use node_core::Cid;
use tar::{Builder, EntryType, Header};

use super::{ByteStream, Content, EntryStream, OPEN_DIRECTORIES_BYTES_MAX};
use crate::ContentError;
use crate::names::{self, PATH_BYTES_MAX, bad};

/// Bytes of a record of an archive; all parts are filled up to whole ones.
const RECORD_BYTES: u64 = 512;

/// Two empty records end an archive.
const END: [u8; 2 * RECORD_BYTES as usize] = [0; 2 * RECORD_BYTES as usize];

/// What has no mode gets that of new files, directories and symlinks under the usual umask.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;
const SYMLINK_MODE: u32 = 0o777;

/// Bytes of a target that fit into a header.
const LINK_BYTES_MAX: usize = 100;

/// A directory whose entries are being written.
struct Open {
    path: Vec<u8>,
    entries: EntryStream,
    /// Bytes of its root block.
    bytes: usize,
}

/// What a header is made of.
enum Kind<'a> {
    File(u64),
    Directory,
    Symlink(&'a [u8]),
}

impl Content {
    /// A file, directory or symlink with all below it as a tar archive, under this name, as `ipfs get --archive` makes it.
    ///
    /// Modes and mtimes are those that the content has. Every name in it passed [`names::check_name`]; another one is an
    /// error, as are paths of more than [`PATH_BYTES_MAX`] bytes. Targets of symlinks are given as they are. How large the
    /// archive becomes is not known before: content may link to the same block as often as it likes.
    pub fn tar(&self, cid: Cid, name: &str) -> ByteStream {
        let content = self.clone();
        let name = name.as_bytes().to_vec();
        Box::pin(try_stream! {
            names::check_name(&name)?;
            let mut open: Vec<Open> = Vec::new();
            let mut open_bytes = 0;
            let mut next = Some((cid, name));
            loop {
                let Some((cid, path)) = next.take() else {
                    let Some(directory) = open.last_mut() else { break };
                    match directory.entries.next().await {
                        Some(entry) => {
                            let entry = entry?;
                            names::check_name(&entry.name)?;
                            next = Some((entry.cid, below(&directory.path, &entry.name)?));
                        }
                        None => {
                            open_bytes -= directory.bytes;
                            open.pop();
                        }
                    }
                    continue;
                };
                let block = content.block(&cid).await?;
                match Node::decode(&block)? {
                    Node::File { bytes, metadata } => {
                        yield header(&path, Kind::File(bytes), metadata)?;
                        let mut file = content.read(block, 0, None);
                        // It has exactly so many bytes: the reader checks what the blocks say of themselves.
                        while let Some(part) = file.next().await {
                            yield part?;
                        }
                        let rest = bytes % RECORD_BYTES;
                        if rest != 0 {
                            yield Bytes::from_static(&END[..(RECORD_BYTES - rest) as usize]);
                        }
                    }
                    Node::Directory { metadata, .. } => {
                        yield header(&path, Kind::Directory, metadata)?;
                        let bytes = block.bytes().len();
                        open_bytes += bytes;
                        if open_bytes > OPEN_DIRECTORIES_BYTES_MAX {
                            Err(DagError::TooLarge {
                                cid: Box::new(cid),
                                what: "bytes of directories that lie in each other",
                                max: OPEN_DIRECTORIES_BYTES_MAX as u64,
                            })?;
                        }
                        let entries = content.list(cid);
                        open.push(Open { path, entries, bytes });
                    }
                    Node::Symlink { target, metadata } => yield header(&path, Kind::Symlink(&target), metadata)?,
                }
            }
            yield Bytes::from_static(&END);
        })
    }
}

fn below(directory: &[u8], name: &[u8]) -> Result<Vec<u8>, ContentError> {
    let path = [directory, b"/", name].concat();
    if path.len() > PATH_BYTES_MAX {
        return Err(bad("path", &path, "is longer than the 4096 bytes that a path may have"));
    }
    Ok(path)
}

/// The records in front of an entry. A path that does not fit into a plain header comes as GNU has it, a long target and an
/// exact mtime as POSIX has them.
fn header(path: &[u8], kind: Kind<'_>, metadata: Metadata) -> Result<Bytes, ContentError> {
    let refused = |_: io::Error| bad("path", path, "or the symlink there can't be put into a tar archive");
    let (entry_type, mode, size) = match kind {
        Kind::File(bytes) => (EntryType::Regular, FILE_MODE, bytes),
        Kind::Directory => (EntryType::Directory, DIRECTORY_MODE, 0),
        Kind::Symlink(_) => (EntryType::Symlink, SYMLINK_MODE, 0),
    };
    let mut header = Header::new_gnu();
    header.set_entry_type(entry_type);
    header.set_mode(metadata.mode.unwrap_or(mode));
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    let mtime = metadata.mtime.unwrap_or(Mtime { seconds: 0, nanos: 0 });
    header.set_mtime(u64::try_from(mtime.seconds).unwrap_or(0));
    let mut extensions: Vec<(&str, Vec<u8>)> = Vec::new();
    if mtime.seconds < 0 || mtime.nanos != 0 {
        extensions.push(("mtime", decimal(mtime).into_bytes()));
    }
    let mut builder = Builder::new(Vec::new());
    let path = match kind {
        // Without a slash at its end: Kubo's command takes that for two names.
        Kind::Directory | Kind::File(_) => path.to_vec(),
        Kind::Symlink(target) => {
            // As it is: what takes it for a path makes `a` of `./a`.
            let shown = &target[..target.len().min(LINK_BYTES_MAX)];
            header.set_link_name_literal(shown).map_err(refused)?;
            if shown.len() < target.len() {
                extensions.push(("linkpath", target.to_vec()));
            }
            path.to_vec()
        }
    };
    if !extensions.is_empty() {
        let extensions = extensions.iter().map(|(key, value)| (*key, &value[..]));
        builder.append_pax_extensions(extensions).map_err(refused)?;
    }
    // The bytes of a file follow by themselves, and so does what fills the last record.
    let as_path = Path::new(OsStr::from_bytes(&path));
    builder
        .append_data(&mut header, as_path, io::empty())
        .map_err(refused)?;
    Ok(Bytes::from(std::mem::take(builder.get_mut())))
}

/// Seconds with a fraction: -2 s and 500 000 000 ns are -1.5.
fn decimal(mtime: Mtime) -> String {
    let whole = i128::from(mtime.seconds) * 1_000_000_000 + i128::from(mtime.nanos);
    let sign = if whole < 0 { "-" } else { "" };
    let (seconds, nanos) = (
        whole.unsigned_abs() / 1_000_000_000,
        whole.unsigned_abs() % 1_000_000_000,
    );
    format!("{sign}{seconds}.{nanos:09}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_written_with_their_sign() {
        let text = |seconds, nanos| decimal(Mtime { seconds, nanos });
        assert_eq!(text(1, 5), "1.000000005");
        assert_eq!(text(-2, 500_000_000), "-1.500000000");
        assert_eq!(text(-1, 999_999_999), "-0.000000001");
        assert_eq!(text(i64::MIN, 0), "-9223372036854775808.000000000");
    }
}
