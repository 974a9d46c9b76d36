//! Writing a tar archive to a disk, whatever is in it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tar::{Archive, EntryType};

use crate::ContentError;
use crate::names::{check_path, symlink_stays_inside};

/// Symlinks, and directories whose mode or mtime is set at the end, of one archive: they are kept until then, with some
/// hundred bytes each. An archive with more of them is refused.
pub const KEPT_MAX: usize = 1024 * 1024;

/// What an archive became.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unpacked {
    /// Files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Bytes of files.
    pub bytes: u64,
}

/// Why an archive was not written, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive can't be read, or the disk not be written.
    #[error("{path}: {source}")]
    Io {
        /// What was being read or written.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// It holds a name that is not safe.
    #[error(transparent)]
    Name(#[from] ContentError),
    /// It holds something that is not written here.
    #[error("{path} in the archive {reason}")]
    Refused {
        /// Its path there.
        path: String,
        /// Why.
        reason: &'static str,
    },
}

/// Writes the one file, directory or symlink that an archive of [`Content::tar`](crate::Content::tar) holds to `to`, which
/// must not exist; the folder that it lies in must. Blocks.
///
/// Nothing is written elsewhere, and nothing that exists is changed: every name is checked, every file and directory is new,
/// and symlinks are made when all else is there, so that nothing can be written through them. Symlinks that lead out of `to`
/// are refused, unless `links_anywhere`. Of modes the permissions are set, and no more: no setuid.
pub fn unpack(archive: impl Read, to: &Path, links_anywhere: bool) -> Result<Unpacked, UnpackError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| UnpackError::Io { path, source }
    };
    let mut unpacked = Unpacked::default();
    let (mut links, mut directories) = (Vec::new(), Vec::new());
    let mut top: Option<Vec<u8>> = None;
    let mut archive = Archive::new(archive);
    for entry in archive.entries().map_err(failed(to))? {
        let mut entry = entry.map_err(failed(to))?;
        let path = entry.path_bytes().into_owned();
        let refused = |reason| UnpackError::Refused {
            path: String::from_utf8_lossy(&path).into_owned(),
            reason,
        };
        let names = check_path(&path)?;
        if *top.get_or_insert_with(|| names[0].to_vec()) != names[0] {
            return Err(refused("lies beside what was asked for, and not in it"));
        }
        // The first name is that of what was asked for; here it is called as `to` says.
        let mut target = to.to_owned();
        target.extend(
            names[1..]
                .iter()
                .map(|name| Path::new(std::ffi::OsStr::from_bytes(name))),
        );
        let mode = entry.header().mode().unwrap_or_default() & 0o777;
        let mtime = modified(&mut entry);
        if links.len() + directories.len() >= KEPT_MAX {
            return Err(refused("is one symlink or directory too many: 1048576 are taken"));
        }
        match entry.header().entry_type() {
            EntryType::Regular => {
                let mut options = OpenOptions::new();
                let mut file: File = options
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&target)
                    .map_err(failed(&target))?;
                unpacked.bytes += io::copy(&mut entry, &mut file).map_err(failed(&target))?;
                unpacked.files += 1;
                file.set_permissions(Permissions::from_mode(mode))
                    .map_err(failed(&target))?;
                if let Some(mtime) = mtime {
                    file.set_modified(mtime).map_err(failed(&target))?;
                }
            }
            EntryType::Directory => {
                fs::create_dir(&target).map_err(failed(&target))?;
                unpacked.directories += 1;
                directories.push((target, mode, mtime));
            }
            EntryType::Symlink => {
                let leads_to = entry.link_name_bytes().unwrap_or_default().into_owned();
                // Below `to`: of the path, the first name is `to` itself, out of which nothing may lead.
                let below = path.iter().position(|byte| *byte == b'/').map(|at| &path[at + 1..]);
                if !links_anywhere && !below.is_some_and(|below| symlink_stays_inside(below, &leads_to)) {
                    return Err(refused(
                        "is a symlink that leads out of what was asked for: it is written only if that is wanted",
                    ));
                }
                links.push((target, leads_to));
            }
            _ => return Err(refused("is neither file, directory nor symlink")),
        }
    }
    for (target, leads_to) in links {
        symlink(std::ffi::OsStr::from_bytes(&leads_to), &target).map_err(failed(&target))?;
        unpacked.symlinks += 1;
    }
    // The innermost first: what is done in a directory changes its time, and its mode may forbid it.
    for (target, mode, mtime) in directories.into_iter().rev() {
        let directory = File::open(&target).map_err(failed(&target))?;
        if let Some(mtime) = mtime {
            directory.set_modified(mtime).map_err(failed(&target))?;
        }
        directory
            .set_permissions(Permissions::from_mode(mode))
            .map_err(failed(&target))?;
    }
    Ok(unpacked)
}

/// When it was changed, exactly if the archive says so; none where it says 0, which is the word for not known.
fn modified<R: Read>(entry: &mut tar::Entry<'_, R>) -> Option<SystemTime> {
    let exact = entry.pax_extensions().ok().flatten().and_then(|extensions| {
        let mut extensions = extensions.filter_map(Result::ok);
        let found = extensions.find(|extension| extension.key_bytes() == b"mtime")?;
        parse_time(found.value().ok()?)
    });
    exact.or_else(|| match entry.header().mtime() {
        Ok(0) | Err(_) => None,
        Ok(seconds) => SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)),
    })
}

/// Seconds since 1970 with a fraction and a sign.
fn parse_time(text: &str) -> Option<SystemTime> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(text) => (-1, text),
        None => (1, text),
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let since = Duration::new(seconds.parse().ok()?, nanos.parse().ok()?);
    match sign {
        1 => SystemTime::UNIX_EPOCH.checked_add(since),
        _ => SystemTime::UNIX_EPOCH.checked_sub(since),
    }
}
