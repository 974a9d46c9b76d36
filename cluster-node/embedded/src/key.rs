//! The key file: who this node is in the IPFS network.
//!
//! One line, the private key as libp2p's protobuf in Base64: what Kubo keeps as `Identity.PrivKey`, so the identity of
//! a Kubo node can be taken along. Whoever reads the file can speak as this node; so nobody but its owner may.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use libp2p_identity::Keypair;
use multibase::Base;

/// Longest key file read, in bytes: the longest key of any kind, RSA with 8192 bits, takes some 6 KiB of it.
const KEY_FILE_BYTES_MAX: u64 = 16 * 1024;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file system failed.
    #[error("key file {path:?} can't be {done}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried: read, written, ….
        done: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// Others than its owner may read or write it.
    #[error(
        "key file {path:?} has mode {mode:03o}, so others can use this node's identity; `chmod 600` it, or delete it for \
         a new identity if somebody may have read it",
        path = .path.display()
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds no key that can be used.
    #[error(
        "key file {path:?} holds no private key in libp2p's protobuf as Base64 ({reason}); restore it from a backup, or \
         delete it for a new identity",
        path = .path.display()
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; never a part of the content.
        reason: String,
    },
}

/// Reads the key, or makes a new one (ed25519) and writes it, synced, before it is used for the first time.
pub fn load_or_create(path: &Path) -> Result<Keypair, KeyError> {
    match File::open(path) {
        Ok(file) => read(path, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path),
        Err(source) => Err(KeyError::Io {
            path: path.to_owned(),
            done: "opened",
            source,
        }),
    }
}

fn read(path: &Path, file: File) -> Result<Keypair, KeyError> {
    let io = |source| KeyError::Io {
        path: path.to_owned(),
        done: "read",
        source,
    };
    // Of the open file: another one may stand under the name by now.
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::TooOpen {
            path: path.to_owned(),
            mode,
        });
    }
    let broken = |reason: String| KeyError::Broken {
        path: path.to_owned(),
        reason,
    };
    let mut text = String::new();
    file.take(KEY_FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => broken("it is no text".into()),
            _ => io(error),
        })?;
    let binary = Base::Base64Pad
        .decode(text.trim())
        .map_err(|_| broken("it is no Base64".into()))?;
    Keypair::from_protobuf_encoding(&binary).map_err(|error| broken(error.to_string()))
}

fn create(path: &Path) -> Result<Keypair, KeyError> {
    let io = |source| KeyError::Io {
        path: path.to_owned(),
        done: "written",
        source,
    };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
    let key = Keypair::generate_ed25519();
    let binary = key.to_protobuf_encoding().map_err(|error| KeyError::Broken {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    let text = Base::Base64Pad.encode(binary) + "\n";
    // Written aside and linked to its name: a file cut by a crash would be taken for a broken key, and of two processes
    // that start at once one must not replace the identity that the other has taken.
    let aside = path.with_extension(format!("new-{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::hard_link(&aside, path)
    })();
    let _ = std::fs::remove_file(&aside);
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return read(path, File::open(path).map_err(io)?);
        }
        Err(error) => return Err(io(error)),
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
    }

    #[test]
    fn an_identity_stays() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("sub").join("node.key");
        let first = load_or_create(&path).expect("made").public().to_peer_id();
        assert_eq!(load_or_create(&path).expect("read").public().to_peer_id(), first);
        let bits = std::fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(bits, 0o600);
        let files = std::fs::read_dir(path.parent().expect("sub")).expect("listed").count();
        assert_eq!(files, 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("node.key");
        load_or_create(&path).expect("made");
        for loose in [0o640, 0o604, 0o622] {
            mode(&path, loose);
            let error = load_or_create(&path).expect_err("too open");
            assert!(
                matches!(error, KeyError::TooOpen { mode, .. } if mode == loose),
                "{error}"
            );
        }
        mode(&path, 0o400);
        load_or_create(&path).expect("its owner may be kept from writing");
    }

    #[test]
    fn what_is_no_key_is_never_replaced() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("node.key");
        for text in ["", "secret!", "AAAA"] {
            std::fs::write(&path, text).expect("written");
            mode(&path, 0o600);
            let error = load_or_create(&path).expect_err("no key").to_string();
            assert!(error.contains("restore"), "{error}");
            assert!(text.is_empty() || !error.contains(text), "{error}");
            assert_eq!(std::fs::read_to_string(&path).expect("there"), text);
        }
    }
}
