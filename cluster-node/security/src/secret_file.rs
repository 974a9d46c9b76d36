//! Files that only their owner may read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Larger files are certainly not one of ours.
const BYTES_MAX: u64 = 64 * 1024;

/// Why a secret could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is one already: it is never overwritten.
    #[error("{0} exists already and is not overwritten")]
    Exists(PathBuf),
    /// There is none.
    #[error("{0} does not exist")]
    Missing(PathBuf),
    /// Others could have read it.
    #[error(
        "{path} can be read by others (mode {mode:03o}); run `chmod 600 {path}`, and replace the secret if somebody may have seen it"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not something that was written by this program.
    #[error("{path} is not usable: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// The file system failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Io {
        path: path.to_owned(),
        source,
    }
}

/// Creates the file with mode 0600. It is there whole and on disk when this returns, or not at all; one that exists is
/// left as it is.
pub fn create(path: &Path, contents: &str) -> Result<(), Error> {
    let parent = parent_of(path);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}.new", rand::random::<u64>()));
    let draft = parent.join(name);
    let written = write_draft(&draft, contents).and_then(|()| {
        // A link, not a rename: it fails when the name is taken, so two processes can't both believe they made it.
        fs::hard_link(&draft, path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists(path.to_owned()),
            _ => io_error(path)(source),
        })
    });
    let removed = fs::remove_file(&draft);
    written?;
    removed.map_err(io_error(&draft))?;
    sync_folder(&parent)
}

fn write_draft(draft: &Path, contents: &str) -> Result<(), Error> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(draft)
        .map_err(io_error(draft))?;
    file.write_all(contents.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(io_error(draft))
}

/// Reads the file; refuses one that others than its owner may read.
pub fn read(path: &Path) -> Result<String, Error> {
    let file = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::Missing(path.to_owned()),
        _ => io_error(path)(source),
    })?;
    // Asked of the open file, so that what is checked is what is read.
    let facts = file.metadata().map_err(io_error(path))?;
    let unusable = |reason| Error::Unusable {
        path: path.to_owned(),
        reason,
    };
    if !facts.is_file() {
        return Err(unusable("it is not a file"));
    }
    if facts.mode() & 0o077 != 0 {
        return Err(Error::Exposed {
            path: path.to_owned(),
            mode: facts.mode() & 0o777,
        });
    }
    if facts.len() > BYTES_MAX {
        return Err(unusable("it is too large"));
    }
    let mut text = String::new();
    file.take(BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|source| match source.kind() {
            io::ErrorKind::InvalidData => unusable("it is not text"),
            _ => io_error(path)(source),
        })?;
    Ok(text)
}

/// Removes the file for good; one that is missing already is fine.
pub fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(&parent_of(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(io_error(path)(source)),
    }
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A new or removed name survives a power cut only once its folder is synced.
fn sync_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io_error(folder))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn is_private_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        create(&path, "first\n").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(create(&path, "second\n"), Err(Error::Exists(_))));
        assert_eq!(read(&path).unwrap(), "first\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn refuses_what_others_can_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        create(&path, "x").unwrap();
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = read(&path).unwrap_err();
            assert!(matches!(error, Error::Exposed { .. }));
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn missing_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        assert!(matches!(read(&path), Err(Error::Missing(_))));
        create(&path, "x").unwrap();
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
        assert!(matches!(read(folder.path()), Err(Error::Unusable { .. })));
    }
}
