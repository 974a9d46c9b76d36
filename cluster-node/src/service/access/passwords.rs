//! Checks passwords without letting a flood of wrong ones take the peer.
//!
//! A hash is dear on purpose. So few are made at a time, few callers wait for one, and a pair of name and password that was
//! right is known again by a keyed hash, as long as the credential is the same.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use cluster_security::{hash_password, verify_password};
use node_core::{Credential, CredentialId, SecretHash};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// Most hashes at a time, however many cores there are: each takes 19 MiB, and the budget of a peer is small.
const AT_ONCE_MAX: usize = 4;

/// Callers that wait for a hash. A service that opens its connections all at once comes with a few hundred; of those the
/// first is hashed, and the others find it in the cache.
const WAITING_MAX: usize = 1_024;

/// How long one of them waits.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Pairs that are known again. Each takes about 300 bytes; one more makes the oldest be hashed anew.
const KNOWN_MAX: usize = 1_024;

/// What a password is tried against where there is no such user, so that it takes as long as where there is.
static DECOY: LazyLock<Option<String>> = LazyLock::new(|| hash_password(&cluster_security::generate_password()));

/// More passwords are being checked than there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Busy;

pub(super) struct Passwords {
    hashing: Arc<Semaphore>,
    waiting: Semaphore,
    /// Of this process alone: what lies in memory says nothing about a password to who does not have it.
    key: [u8; 32],
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    pairs: HashMap<[u8; 32], Right>,
    /// Oldest first.
    order: VecDeque<[u8; 32]>,
}

/// Of which credential a pair was right.
#[derive(PartialEq, Eq)]
struct Right {
    id: CredentialId,
    hash: String,
}

impl Passwords {
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            // Half of the cores at most: the others go on answering those who are known.
            hashing: Arc::new(Semaphore::new((cores / 2).clamp(1, AT_ONCE_MAX))),
            waiting: Semaphore::new(WAITING_MAX),
            key: rand::random(),
            known: Mutex::default(),
        }
    }

    /// Whether name and password are those of the credential. Without one, and with one that has no password, it takes as
    /// long and they are not.
    pub async fn are_right(&self, name: &str, password: &str, credential: Option<&Credential>) -> Result<bool, Busy> {
        let found = credential.and_then(|credential| match &credential.secret {
            SecretHash::Password(hash) => Some(Right {
                id: credential.id.clone(),
                hash: hash.clone(),
            }),
            SecretHash::Token(_) => None,
        });
        let pair = self.pair(name, password);
        if self.is_known(&pair, found.as_ref()) {
            return Ok(true);
        }
        let _place = self.waiting.try_acquire().map_err(|_| Busy)?;
        let permit = tokio::time::timeout(WAIT_MAX, self.hashing.clone().acquire_owned()).await;
        let permit = permit.map_err(|_| Busy)?.map_err(|_| Busy)?;
        // Others may have come with the same pair, and been first.
        if self.is_known(&pair, found.as_ref()) {
            return Ok(true);
        }
        let (password, hash) = (password.to_owned(), found.as_ref().map(|right| right.hash.clone()));
        let is_right = tokio::task::spawn_blocking(move || {
            // Held to the end, also when the caller goes away: it bounds what is computed, not who waits.
            let _permit = permit;
            match hash {
                Some(hash) => verify_password(&password, &hash),
                None => {
                    let _ = DECOY.as_ref().map(|decoy| verify_password(&password, decoy));
                    false
                }
            }
        });
        let is_right = is_right.await.unwrap_or(false);
        if let (true, Some(right)) = (is_right, found) {
            self.known.lock().insert(pair, right);
        }
        Ok(is_right)
    }

    /// The hash of a new password.
    pub async fn hash(&self, password: String) -> Result<Option<String>, Busy> {
        let permit = self.hashing.clone().acquire_owned().await.map_err(|_| Busy)?;
        let hashed = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            hash_password(&password)
        });
        Ok(hashed.await.ok().flatten())
    }

    fn pair(&self, name: &str, password: &str) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        // With its length, so that no two pairs read the same.
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(password.as_bytes());
        *hasher.finalize().as_bytes()
    }

    /// Whether the pair was right for what the state holds now. One whose credential changed or went is forgotten.
    fn is_known(&self, pair: &[u8; 32], found: Option<&Right>) -> bool {
        let mut known = self.known.lock();
        match known.pairs.get(pair) {
            None => false,
            Some(right) if Some(right) == found => true,
            Some(_) => {
                known.forget(pair);
                false
            }
        }
    }
}

impl Known {
    fn insert(&mut self, pair: [u8; 32], right: Right) {
        if self.pairs.insert(pair, right).is_none() {
            self.order.push_back(pair);
        }
        while self.order.len() > KNOWN_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.pairs.remove(&oldest);
            }
        }
    }

    fn forget(&mut self, pair: &[u8; 32]) {
        self.pairs.remove(pair);
        self.order.retain(|other| other != pair);
    }
}

#[cfg(test)]
mod tests {
    use node_core::{Namespace, Scope, SigningKey, Timestamp};
    use tokio::sync::SemaphorePermit;

    use super::*;

    fn credential(id: u8, password: &str) -> Credential {
        Credential {
            id: CredentialId::from_bytes([id; 5]),
            name: "alice".into(),
            secret: SecretHash::Password(hash_password(password).expect("there is memory")),
            namespace: Namespace::default(),
            scope: Scope::Read,
            signing_key: SigningKey([0; 32]),
            created: Timestamp::ZERO,
            expires: None,
        }
    }

    #[tokio::test]
    async fn a_right_pair_is_known_as_long_as_its_credential_is_the_same() {
        let passwords = Passwords::new();
        let first = credential(1, "one");
        assert_eq!(passwords.are_right("alice", "one", Some(&first)).await, Ok(true));
        assert_eq!(passwords.are_right("alice", "two", Some(&first)).await, Ok(false));
        assert_eq!(passwords.known.lock().pairs.len(), 1, "what was wrong is not kept");
        // Nothing can be hashed from here on: what is still right is known.
        let all = u32::try_from(passwords.hashing.available_permits()).expect("few");
        let held = passwords.hashing.clone().acquire_many_owned(all).await.expect("open");
        assert_eq!(passwords.are_right("alice", "one", Some(&first)).await, Ok(true));
        drop(held);
        // The same name with another password, and then with none.
        let second = credential(2, "two");
        assert_eq!(passwords.are_right("alice", "one", Some(&second)).await, Ok(false));
        assert!(passwords.known.lock().pairs.is_empty(), "it is forgotten");
        assert_eq!(passwords.are_right("alice", "two", Some(&second)).await, Ok(true));
        assert_eq!(passwords.are_right("alice", "two", None).await, Ok(false));
        assert!(passwords.known.lock().order.is_empty(), "it is forgotten");
    }

    #[tokio::test]
    async fn name_and_password_are_told_apart() {
        let passwords = Passwords::new();
        assert_ne!(passwords.pair("ab", "c"), passwords.pair("a", "bc"));
        assert_eq!(passwords.pair("ab", "c"), passwords.pair("ab", "c"));
        assert_ne!(
            passwords.pair("ab", "c"),
            Passwords::new().pair("ab", "c"),
            "the key is that of a process"
        );
    }

    #[tokio::test]
    async fn a_flood_is_bounded() {
        let passwords = Passwords::new();
        let all = u32::try_from(passwords.hashing.available_permits()).expect("few");
        let _held = passwords.hashing.clone().acquire_many_owned(all).await.expect("open");
        let places: Vec<SemaphorePermit<'_>> = (0..WAITING_MAX)
            .filter_map(|_| passwords.waiting.try_acquire().ok())
            .collect();
        assert_eq!(places.len(), WAITING_MAX);
        assert_eq!(passwords.are_right("mallory", "guess", None).await, Err(Busy));
    }

    #[test]
    fn what_is_known_is_bounded() {
        let mut known = Known::default();
        for number in 0..2 * KNOWN_MAX {
            let mut pair = [0; 32];
            pair[..8].copy_from_slice(&number.to_le_bytes());
            let right = || Right {
                id: CredentialId::from_bytes([0; 5]),
                hash: String::new(),
            };
            known.insert(pair, right());
            known.insert(pair, right());
        }
        assert_eq!((known.pairs.len(), known.order.len()), (KNOWN_MAX, KNOWN_MAX));
    }
}
