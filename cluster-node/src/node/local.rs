//! The socket in the peer's own folder: whoever owns the folder may do everything over it, and needs no credential.
//!
//! It is how the first credential is made, and how a lost one is replaced: who can open it could as well read the peer's
//! key. Both the rights of the file and the kernel's word about the other end are asked, since the one can be changed by
//! hand, and the other tells for each connection.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_stream::stream;
use futures::Stream;
use rustix::process::geteuid;
use tokio::net::{UnixListener, UnixStream};

/// How long no connection is taken after one could not be: mostly because there are no file descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// A socket that listens; its file goes with it.
pub struct LocalSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl LocalSocket {
    /// Listens at a path. What a crash left there is removed: the caller holds the folder's databases, so no other peer
    /// runs in it.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// The connections of the owner, and of root, who may do everything anyhow. Never ends.
    pub fn owners(self) -> impl Stream<Item = io::Result<UnixStream>> + Send {
        let own = geteuid().as_raw();
        stream! {
            loop {
                match self.listener.accept().await {
                    Ok((connection, _)) => match connection.peer_cred() {
                        Ok(other) if other.uid() == own || other.uid() == 0 => yield Ok(connection),
                        Ok(other) => tracing::warn!(uid = other.uid(), "another user may not use the peer's own socket"),
                        Err(error) => tracing::warn!(%error, "whose connection it is can't be told"),
                    },
                    Err(error) => {
                        tracing::warn!(%error, "a connection to the peer's own socket could not be taken");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        // Left behind it would only be removed by the next start.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::StreamExt;

    use super::*;

    #[tokio::test]
    async fn it_is_the_owners_and_replaces_what_a_crash_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        assert!(path.exists(), "as a crash leaves it");
        let socket = LocalSocket::bind(&path).expect("bound anew");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut owners = pin!(socket.owners());
        let (client, taken) = tokio::join!(UnixStream::connect(&path), owners.next());
        client.expect("connected");
        taken.expect("it never ends").expect("ours");
    }

    #[tokio::test]
    async fn its_file_goes_with_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let socket = LocalSocket::bind(&path).expect("bound");
        drop(socket.owners());
        assert!(!path.exists());
        // The kernel bounds the length of such a path; that is told and not a panic.
        let long = folder.path().join("x".repeat(120));
        assert!(LocalSocket::bind(&long).is_err());
    }
}
