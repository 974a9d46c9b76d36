//! The text that a client shows to be let in.
//!
//! ```text
//! pft_<base58 of: ID of the credential, 5 bytes · secret, 32 bytes · checksum, 4 bytes>
//! ```
//!
//! It holds the ID, so that a peer finds the credential with one look and can name it in its log. The beginning tells
//! people and programs that look for leaked secrets what it is.

use std::fmt;

use multibase::Base;
use multihash_codetable::{Code, MultihashDigest};
use node_core::CredentialId;
use subtle::ConstantTimeEq;

const PREFIX: &str = "pft_";
const SECRET_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;
const BYTES: usize = CredentialId::BYTES + SECRET_BYTES + CHECKSUM_BYTES;
/// 41 bytes take at most 57 characters in base 58. What is longer is not decoded, since the time that takes grows with the
/// square of the length.
const TEXT_BYTES_MAX: usize = PREFIX.len() + 57;

/// A token. [`ApiToken::to_text`] gives it away; `Debug` does not.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// Which credential it is.
    id: [u8; CredentialId::BYTES],
    secret: [u8; SECRET_BYTES],
}

impl ApiToken {
    /// A new random one: 256 bits that nobody guesses.
    pub fn generate() -> Self {
        Self {
            id: rand::random(),
            secret: rand::random(),
        }
    }

    /// Which credential it is.
    pub fn id(&self) -> CredentialId {
        CredentialId::from_bytes(self.id)
    }

    /// What the cluster keeps: SHA-256 of ID and secret. The secret is random and long, so neither salt nor a slow hash is
    /// needed: there is nothing to guess, and a peer hashes one with every call.
    pub fn hash(&self) -> [u8; 32] {
        let mut input = b"pinfleet api token 1\0".to_vec();
        input.extend_from_slice(&self.id);
        input.extend_from_slice(&self.secret);
        let mut hash = [0; 32];
        hash.copy_from_slice(Code::Sha2_256.digest(&input).digest());
        hash
    }

    /// Whether this is the token whose hash is known. Takes the same time wherever the two differ.
    pub fn is_that_of(&self, hash: &[u8; 32]) -> bool {
        self.hash().ct_eq(hash).into()
    }

    /// The text to hand to the client. It is a secret.
    pub fn to_text(&self) -> String {
        let mut bytes = [self.id.as_slice(), &self.secret].concat();
        bytes.extend_from_slice(&checksum(&bytes));
        format!("{PREFIX}{}", Base::Base58Btc.encode(bytes))
    }

    /// Whether a text is meant to be a token of this kind, whole or not.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// Reads the text.
    pub fn parse(text: &str) -> Result<Self, ApiTokenError> {
        let payload = text.strip_prefix(PREFIX).ok_or(ApiTokenError::NotAToken)?;
        if text.len() > TEXT_BYTES_MAX {
            return Err(ApiTokenError::Damaged);
        }
        let bytes = Base::Base58Btc.decode(payload).map_err(|_| ApiTokenError::Damaged)?;
        let bytes: [u8; BYTES] = bytes.try_into().map_err(|_| ApiTokenError::Damaged)?;
        let (body, sum) = bytes.split_at(BYTES - CHECKSUM_BYTES);
        if checksum(body) != sum {
            return Err(ApiTokenError::Damaged);
        }
        let mut token = Self {
            id: [0; CredentialId::BYTES],
            secret: [0; SECRET_BYTES],
        };
        token.id.copy_from_slice(&body[..CredentialId::BYTES]);
        token.secret.copy_from_slice(&body[CredentialId::BYTES..]);
        Ok(token)
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiToken({}, …)", self.id())
    }
}

/// Finds damage; it protects nothing.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = xxhash_rust::xxh3::xxh3_64(bytes).to_be_bytes();
    [hash[0], hash[1], hash[2], hash[3]]
}

/// Why a text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApiTokenError {
    /// Something else.
    #[error("this is no token; it begins with `pft_`, and `cluster-ctl token create` prints one")]
    NotAToken,
    /// Cut or changed.
    #[error("the token is damaged, perhaps cut while it was copied")]
    Damaged,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> ApiToken {
        ApiToken {
            id: [1, 2, 3, 4, 5],
            secret: [7; 32],
        }
    }

    #[test]
    fn round_trip() {
        for token in [
            token(),
            ApiToken {
                id: [0; 5],
                secret: [0; 32],
            },
            ApiToken {
                id: [255; 5],
                secret: [255; 32],
            },
            ApiToken::generate(),
        ] {
            let text = token.to_text();
            assert!(text.starts_with("pft_") && text.len() <= TEXT_BYTES_MAX, "{text}");
            // RFC 6750 section 2.1 says what may stand behind `Bearer`; this is less.
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{text}");
            assert_eq!(ApiToken::parse(&text), Ok(token));
        }
        assert_eq!(
            token().id().as_str(),
            CredentialId::from_bytes([1, 2, 3, 4, 5]).as_str()
        );
    }

    #[test]
    fn any_damage_is_found() {
        let text = token().to_text();
        for at in 0..text.len() {
            assert!(ApiToken::parse(&text[..at]).is_err(), "cut at {at}");
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(ApiToken::parse(&changed).is_err(), "changed at {at}");
        }
        assert_eq!(ApiToken::parse("hello"), Err(ApiTokenError::NotAToken));
        assert_eq!(ApiToken::parse(&format!("{text}1")), Err(ApiTokenError::Damaged));
        assert_eq!(
            ApiToken::parse(&format!("pft_{}", "z".repeat(1 << 20))),
            Err(ApiTokenError::Damaged)
        );
    }

    #[test]
    fn the_hash_is_of_all_of_it_and_nothing_shows_it() {
        let hash = token().hash();
        assert!(token().is_that_of(&hash));
        assert!(
            !ApiToken {
                id: [1, 2, 3, 4, 6],
                ..token()
            }
            .is_that_of(&hash)
        );
        assert!(
            !ApiToken {
                secret: [8; 32],
                ..token()
            }
            .is_that_of(&hash)
        );
        let shown = format!("{:?}", token());
        assert!(!shown.contains("7, 7") && shown.contains('…'), "{shown}");
    }
}
