//! The key that a peer is.

use std::fmt;
use std::path::{Path, PathBuf};

use libp2p_identity::ed25519;
use node_core::PeerId;

use crate::secret_file;

/// What the one line of a key file begins with; a later form gets a new number.
const PREFIX: &str = "pinfleet-identity-1";

/// A peer's Ed25519 key. Cheap to clone; neither `Debug` nor `Display` shows the secret.
#[derive(Clone)]
pub struct Identity {
    keys: ed25519::Keypair,
    peer_id: PeerId,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file could not be read or made.
    #[error("identity: {0}")]
    File(#[from] secret_file::Error),
    /// The file is something else.
    #[error(
        "identity: {0} is not a key file of this program; restore it from a backup, or begin with a new peer in an empty \
         folder"
    )]
    Malformed(PathBuf),
}

impl Identity {
    /// A new random one.
    pub fn generate() -> Self {
        Self::from_keys(ed25519::Keypair::generate())
    }

    /// The one of this seed: for tests and simulation.
    pub fn from_seed(mut seed: [u8; 32]) -> Self {
        let secret = ed25519::SecretKey::try_from_bytes(&mut seed).expect("any 32 bytes are an Ed25519 seed");
        Self::from_keys(secret.into())
    }

    fn from_keys(keys: ed25519::Keypair) -> Self {
        let peer_id = peer_id_of(keys.public());
        Self { keys, peer_id }
    }

    /// Makes a new one and keeps it in a new file, mode 0600. A file that exists is never overwritten.
    pub fn create(path: &Path) -> Result<Self, IdentityError> {
        let identity = Self::generate();
        let seed: String = identity.seed().iter().map(|byte| format!("{byte:02x}")).collect();
        secret_file::create(path, &format!("{PREFIX} {seed}\n"))?;
        Ok(identity)
    }

    /// Reads the one of a file; refuses a file that others may read.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let text = secret_file::read(path)?;
        parse_line(&text)
            .map(Self::from_seed)
            .ok_or_else(|| IdentityError::Malformed(path.to_owned()))
    }

    /// The public name of it.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// The secret.
    pub(crate) fn seed(&self) -> [u8; 32] {
        let mut seed = [0; 32];
        seed.copy_from_slice(self.keys.secret().as_ref());
        seed
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.peer_id)
    }
}

/// The peer ID that belongs to a key.
pub(crate) fn peer_id_of(key: ed25519::PublicKey) -> PeerId {
    libp2p_identity::PublicKey::from(key).to_peer_id().into()
}

fn parse_line(text: &str) -> Option<[u8; 32]> {
    let line = text.strip_suffix('\n').unwrap_or(text);
    let hex = line.strip_prefix(PREFIX)?.strip_prefix(' ')?;
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut seed = [0; 32];
    for (byte, digits) in seed.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(seed)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.key");
        let made = Identity::create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Identity::load(&path).unwrap().peer_id(), made.peer_id());
        assert!(made.peer_id().to_string().starts_with("12D3KooW"));
        assert!(matches!(
            Identity::create(&path),
            Err(IdentityError::File(secret_file::Error::Exists(_)))
        ));
        assert_eq!(Identity::load(&path).unwrap().peer_id(), made.peer_id());
    }

    #[test]
    fn has_libp2ps_name() {
        // The seed 0…31 is a published example of the specification of peer IDs' key form.
        let seed = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let keys = libp2p_identity::Keypair::ed25519_from_bytes(seed).unwrap();
        let expected = keys.public().to_peer_id().to_string();
        assert_eq!(Identity::from_seed(seed).peer_id().to_string(), expected);
    }

    #[test]
    fn shows_no_secret() {
        let identity = Identity::from_seed([0xab; 32]);
        let shown = format!("{identity:?}");
        assert!(!shown.contains("abab") && !shown.contains("171"), "{shown}");
    }

    #[test]
    fn refuses_other_files() {
        let folder = tempfile::tempdir().unwrap();
        let zeros = "0".repeat(64);
        for (at, text) in [
            String::new(),
            "pinfleet-identity-1".to_owned(),
            "pinfleet-identity-1 00".to_owned(),
            format!("pinfleet-identity-2 {zeros}\n"),
            format!("pinfleet-identity-1 {zeros}0\n"),
            format!("pinfleet-identity-1 +{}\n", "0".repeat(63)),
            format!("pinfleet-identity-1 {zeros}\nmore\n"),
        ]
        .iter()
        .enumerate()
        {
            let path = folder.path().join(at.to_string());
            secret_file::create(&path, text).unwrap();
            assert!(
                matches!(Identity::load(&path), Err(IdentityError::Malformed(_))),
                "{text:?}"
            );
        }
    }
}
