//! `cluster-node init`: makes a peer's folder.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cluster_security::{Identity, IdentityError, JoinToken, JoinTokenError, secret_file};
use node_core::{InvalidId, PeerId};

use super::DataDir;
use super::render::default_file;

/// What to make.
#[derive(Debug, Clone, Default)]
pub struct InitOptions {
    /// The peer's name; the host's when missing.
    pub name: Option<String>,
    /// The token with which it joins a cluster; it begins a new one when missing.
    pub join: Option<String>,
    /// The configuration has an embedded IPFS node.
    pub embedded: bool,
    /// Replaces configuration and join token. The key is never replaced.
    pub force: bool,
}

/// What was made.
#[derive(Debug)]
pub struct Initialized {
    /// Who the peer is.
    pub peer_id: PeerId,
    /// Whether the key is one that was there before.
    pub kept_key: bool,
    /// The cluster that it is to join.
    pub joins: Option<String>,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The name breaks the rules.
    #[error("--name: {0}")]
    Name(#[from] InvalidId),
    /// The token can't be used.
    #[error("--join: {0}")]
    Token(#[from] JoinTokenError),
    /// There is a peer in the folder.
    #[error("{0} exists already; --force replaces the configuration and keeps the key")]
    Exists(PathBuf),
    /// A peer that has data belongs to its cluster for good.
    #[error("{0} holds the data of a cluster; a peer that has joined can't join again: use an empty folder")]
    HasJoined(PathBuf),
    /// The key could not be read or made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The token could not be kept.
    #[error("join token: {0}")]
    Secret(#[from] secret_file::Error),
    /// The file system failed.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl InitError {
    /// Whether the caller gave something wrong.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Name(_) | Self::Token(_) | Self::Exists(_) | Self::HasJoined(_)
        )
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> InitError + '_ {
    move |source| InitError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Makes folder (mode 0700), key, configuration and join token. Everything is checked before the first is made.
pub fn init(dir: &DataDir, options: &InitOptions) -> Result<Initialized, InitError> {
    if let Some(name) = &options.name {
        node_core::check_name("peer name", name)?;
    }
    let token = options.join.as_deref().map(str::parse::<JoinToken>).transpose()?;
    if !options.force {
        for path in [dir.config_file(), dir.join_token()] {
            if path.exists() {
                return Err(InitError::Exists(path));
            }
        }
    }
    if token.is_some() && dir.cluster().exists() {
        return Err(InitError::HasJoined(dir.cluster()));
    }

    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir.root())
        .map_err(io_error(dir.root()))?;
    let key = dir.identity_key();
    let kept_key = key.exists();
    let identity = if kept_key {
        Identity::load(&key)?
    } else {
        Identity::create(&key)?
    };
    if options.force {
        secret_file::remove(&dir.join_token())?;
    }
    if let Some(token) = &token {
        secret_file::create(&dir.join_token(), &format!("{}\n", token.to_text()))?;
        let _ = fs::remove_file(dir.founds());
    } else if !kept_key {
        // Only a new identity begins a cluster: one that lost its data must join again, under a new number.
        fs::write(dir.founds(), "").map_err(io_error(&dir.founds()))?;
    }
    // Last, because its presence is what says that the folder is made.
    let node = options
        .embedded
        .then(|| node_name(options.name.as_deref(), identity.peer_id()));
    let text = default_file(options.name.as_deref(), node.as_deref());
    write_whole(&dir.config_file(), &text)?;
    Ok(Initialized {
        peer_id: identity.peer_id(),
        kept_key,
        joins: token.map(|token| token.cluster_id),
    })
}

/// A name for the embedded node that no other peer's has: made of the peer's own, which is unique, or of its ID.
fn node_name(peer: Option<&str>, id: PeerId) -> String {
    const SUFFIX: &str = "-node";
    let id = id.to_string();
    match peer {
        Some(name) => format!("{}{SUFFIX}", &name[..name.len().min(63 - SUFFIX.len())]),
        None => format!("node-{}", &id[id.len() - 8..]),
    }
}

/// Replaces the file; after a crash it is the old or the new one.
fn write_whole(path: &Path, text: &str) -> Result<(), InitError> {
    let draft = path.with_extension("toml.new");
    fs::write(&draft, text)
        .and_then(|()| fs::File::open(&draft)?.sync_all())
        .and_then(|()| fs::rename(&draft, path))
        .map_err(io_error(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use cluster_security::{PeerAddress, TokenSecret};

    use super::*;
    use crate::config::Loaded;

    fn token() -> String {
        JoinToken {
            cluster_id: "c1".to_owned(),
            peers: vec![PeerAddress {
                peer: Identity::generate().peer_id(),
                addresses: vec!["10.0.0.1:9096".to_owned()],
            }],
            secret: TokenSecret::generate(),
        }
        .to_text()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn makes_a_folder_that_can_be_loaded() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::new(parent.path().join("a/b"));
        let options = InitOptions {
            name: Some("alpha".to_owned()),
            join: Some(token()),
            embedded: false,
            force: false,
        };
        let made = init(&dir, &options).unwrap();
        assert_eq!(made.joins.as_deref(), Some("c1"));
        assert!(!made.kept_key);
        assert_eq!(mode(dir.root()), 0o700);
        assert_eq!(mode(&dir.identity_key()), 0o600);
        assert_eq!(mode(&dir.join_token()), 0o600);
        assert!(
            secret_file::read(&dir.join_token())
                .unwrap()
                .parse::<JoinToken>()
                .is_ok()
        );
        let loaded = Loaded::read(Some(&dir.config_file()), [], &[]).unwrap();
        assert_eq!(loaded.config.peer.name, "alpha");
        assert_eq!(fs::read_dir(dir.root()).unwrap().count(), 3, "no draft is left");
    }

    #[test]
    fn an_embedded_node_is_in_the_configuration_when_asked_for() {
        let parent = tempfile::tempdir().unwrap();
        for (name, expected) in [(Some("alpha"), "alpha-node"), (None, "node-")] {
            let dir = DataDir::new(parent.path().join(expected));
            let options = InitOptions {
                name: name.map(str::to_owned),
                embedded: true,
                ..InitOptions::default()
            };
            init(&dir, &options).unwrap();
            let config = Loaded::read(Some(&dir.config_file()), [], &[]).unwrap().config;
            assert_eq!(config.nodes.len(), 1);
            assert_eq!(config.nodes[0].kind, crate::config::NodeKind::Embedded);
            assert!(config.nodes[0].name.starts_with(expected), "{}", config.nodes[0].name);
        }
        let long = node_name(Some(&"x".repeat(63)), Identity::generate().peer_id());
        assert!(long.len() == 63 && long.ends_with("-node"), "{long}");
    }

    #[test]
    fn overwrites_nothing_and_never_the_key() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::new(parent.path());
        let first = init(&dir, &InitOptions::default()).unwrap();
        assert!(matches!(init(&dir, &InitOptions::default()), Err(InitError::Exists(_))));
        fs::write(dir.config_file(), "[peer]\nname = \"mine\"\n").unwrap();
        let forced = InitOptions {
            force: true,
            ..InitOptions::default()
        };
        let second = init(&dir, &forced).unwrap();
        assert!(second.kept_key);
        assert_eq!(first.peer_id, second.peer_id);
        assert_eq!(fs::read_to_string(dir.config_file()).unwrap(), default_file(None, None));
    }

    #[test]
    fn wrong_input_makes_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::new(parent.path().join("new"));
        for options in [
            InitOptions {
                name: Some("no spaces".to_owned()),
                ..InitOptions::default()
            },
            InitOptions {
                join: Some("hello".to_owned()),
                ..InitOptions::default()
            },
        ] {
            let error = init(&dir, &options).unwrap_err();
            assert!(error.is_usage(), "{error}");
            assert!(!dir.root().exists());
        }
        fs::create_dir_all(dir.cluster()).unwrap();
        let again = InitOptions {
            join: Some(token()),
            force: true,
            ..InitOptions::default()
        };
        assert!(matches!(init(&dir, &again), Err(InitError::HasJoined(_))));
    }
}
