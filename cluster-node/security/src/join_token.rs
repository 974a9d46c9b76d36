//! The text with which one new peer may join a cluster.
//!
//! ```text
//! pinfleet-join-1.<base64url of: cluster ID · peers (ID, addresses) · secret, 32 bytes · checksum, 4 bytes>
//! ```
//!
//! The cluster keeps only a hash of the secret. The peers are named by their IDs, so the joining peer knows that it
//! gives the secret to the right ones.

use std::fmt;
use std::str::FromStr;

use multibase::Base;
use multihash_codetable::{Code, MultihashDigest};
use node_core::PeerId;

const PREFIX: &str = "pinfleet-join-1.";
const SECRET_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;
/// Peers in a token: the voters and a few more are enough to find one that runs.
const PEERS_MAX: usize = 16;
const ADDRESSES_MAX: usize = 16;
/// A token has about 200 characters; this is where it is certainly something else.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// The secret of a token. `Debug` hides it; there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret([u8; SECRET_BYTES]);

impl TokenSecret {
    /// A new random one.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// As it came over an authenticated connection.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, JoinTokenError> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| JoinTokenError::Malformed("its secret does not have 32 bytes"))
    }

    /// To be sent over an authenticated connection, and nowhere else.
    pub fn expose(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }

    /// What the cluster keeps: SHA-256. The secret is random and long, so neither salt nor a slow hash is needed.
    pub fn hash(&self) -> [u8; 32] {
        let mut input = b"pinfleet join token 1\0".to_vec();
        input.extend_from_slice(&self.0);
        let mut hash = [0; 32];
        hash.copy_from_slice(Code::Sha2_256.digest(&input).digest());
        hash
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(…)")
    }
}

/// A peer, and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    /// Who is there.
    pub peer: PeerId,
    /// `host:port`, the best first.
    pub addresses: Vec<String>,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.peer, self.addresses.join(","))
    }
}

/// What a new peer needs to join. [`JoinToken::to_text`] gives it away; `Debug` does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The cluster that it is for.
    pub cluster_id: String,
    /// Members to ask, each of which can take the request.
    pub peers: Vec<PeerAddress>,
    /// What is accepted once.
    pub secret: TokenSecret,
}

/// Why a text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenError {
    /// Something else.
    #[error("this is no join token; it begins with `pinfleet-join-1.`, and `cluster-ctl peer join-token` prints one")]
    NotAToken,
    /// Of a later version.
    #[error("the join token is of a form that this version does not know; use the cluster's version of cluster-node")]
    OtherVersion,
    /// Cut or changed.
    #[error("the join token is damaged, perhaps cut while it was copied: {0}")]
    Malformed(&'static str),
}

impl JoinToken {
    /// The text to hand to the new peer. It is a secret.
    pub fn to_text(&self) -> String {
        let mut bytes = Vec::with_capacity(256);
        put(&mut bytes, self.cluster_id.as_bytes());
        let peers = &self.peers[..self.peers.len().min(PEERS_MAX)];
        bytes.push(u8::try_from(peers.len()).unwrap_or(u8::MAX));
        for peer in peers {
            put(&mut bytes, &peer.peer.to_bytes());
            let addresses: Vec<_> = peer
                .addresses
                .iter()
                .filter(|address| address.len() <= usize::from(u8::MAX))
                .take(ADDRESSES_MAX)
                .collect();
            bytes.push(u8::try_from(addresses.len()).unwrap_or(u8::MAX));
            for address in addresses {
                put(&mut bytes, address.as_bytes());
            }
        }
        bytes.extend_from_slice(&self.secret.0);
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        format!("{PREFIX}{}", Base::Base64Url.encode(bytes))
    }
}

/// Length and bytes. What is longer than a length can say is cut: cluster IDs and peer IDs are far shorter.
fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    let len = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    to.push(len);
    to.extend_from_slice(&bytes[..usize::from(len)]);
}

/// Finds damage; it protects nothing.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = xxhash_rust::xxh3::xxh3_64(bytes).to_be_bytes();
    [hash[0], hash[1], hash[2], hash[3]]
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        use JoinTokenError::{Malformed, NotAToken, OtherVersion};
        let text = text.trim();
        if text.len() > TEXT_BYTES_MAX {
            return Err(NotAToken);
        }
        let Some(payload) = text.strip_prefix(PREFIX) else {
            return Err(if text.starts_with("pinfleet-join-") {
                OtherVersion
            } else {
                NotAToken
            });
        };
        let bytes = Base::Base64Url
            .decode(payload)
            .map_err(|_| Malformed("it has characters that don't belong there"))?;
        let Some(body_len) = bytes.len().checked_sub(CHECKSUM_BYTES) else {
            return Err(Malformed("it is too short"));
        };
        let (body, sum) = bytes.split_at(body_len);
        if checksum(body) != sum {
            return Err(Malformed("its checksum is wrong"));
        }
        let mut rest = Reader(body);
        let cluster_id = rest.text()?;
        let mut peers = Vec::new();
        for _ in 0..rest.count(PEERS_MAX)? {
            let peer = PeerId::from_bytes(rest.chunk()?).map_err(|_| Malformed("a peer ID in it is wrong"))?;
            let mut addresses = Vec::new();
            for _ in 0..rest.count(ADDRESSES_MAX)? {
                addresses.push(rest.text()?);
            }
            peers.push(PeerAddress { peer, addresses });
        }
        let secret = TokenSecret::from_bytes(rest.0)?;
        if cluster_id.is_empty() || peers.is_empty() {
            return Err(Malformed("it names no cluster or no peer"));
        }
        Ok(Self {
            cluster_id,
            peers,
            secret,
        })
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, JoinTokenError> {
        let (first, rest) = self
            .0
            .split_first()
            .ok_or(JoinTokenError::Malformed("it is too short"))?;
        self.0 = rest;
        Ok(*first)
    }

    fn count(&mut self, max: usize) -> Result<usize, JoinTokenError> {
        let count = usize::from(self.byte()?);
        if count > max {
            return Err(JoinTokenError::Malformed("it names too many peers or addresses"));
        }
        Ok(count)
    }

    fn chunk(&mut self) -> Result<&'a [u8], JoinTokenError> {
        let len = usize::from(self.byte()?);
        let (chunk, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(JoinTokenError::Malformed("it is too short"))?;
        self.0 = rest;
        Ok(chunk)
    }

    fn text(&mut self) -> Result<String, JoinTokenError> {
        String::from_utf8(self.chunk()?.to_vec()).map_err(|_| JoinTokenError::Malformed("a text in it is wrong"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    fn token() -> JoinToken {
        JoinToken {
            cluster_id: "0198c3e2-1111-7000-8000-000000000001".to_owned(),
            peers: vec![
                PeerAddress {
                    peer: Identity::from_seed([1; 32]).peer_id(),
                    addresses: vec!["10.0.0.1:9096".to_owned(), "[::1]:9096".to_owned()],
                },
                PeerAddress {
                    peer: Identity::from_seed([2; 32]).peer_id(),
                    addresses: vec![],
                },
            ],
            secret: TokenSecret([7; 32]),
        }
    }

    #[test]
    fn round_trip() {
        let text = token().to_text();
        assert!(text.starts_with("pinfleet-join-1."));
        assert!(
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')),
            "{text}"
        );
        assert_eq!(text.parse(), Ok(token()));
        assert_eq!(format!(" {text}\n").parse(), Ok(token()));
    }

    #[test]
    fn any_damage_is_found() {
        let text = token().to_text();
        for at in PREFIX.len()..text.len() {
            let cut = &text[..at];
            assert!(cut.parse::<JoinToken>().is_err(), "cut at {at}");
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            // The last character may hold bits that mean nothing.
            if at + 1 < text.len() {
                assert!(changed.parse::<JoinToken>().is_err(), "changed at {at}");
            }
        }
        assert_eq!("".parse::<JoinToken>(), Err(JoinTokenError::NotAToken));
        assert_eq!("hello".parse::<JoinToken>(), Err(JoinTokenError::NotAToken));
        assert_eq!(
            "pinfleet-join-2.AAAA".parse::<JoinToken>(),
            Err(JoinTokenError::OtherVersion)
        );
        assert!(matches!(
            "pinfleet-join-1.!!".parse::<JoinToken>(),
            Err(JoinTokenError::Malformed(_))
        ));
    }

    #[test]
    fn hides_its_secret() {
        let shown = format!("{:?}", token());
        assert!(!shown.contains('7') || !shown.contains("7, 7"), "{shown}");
        assert!(shown.contains("TokenSecret(…)"));
    }

    #[test]
    fn hash_is_of_the_secret() {
        assert_ne!(TokenSecret([7; 32]).hash(), TokenSecret([8; 32]).hash());
        assert_eq!(TokenSecret([7; 32]).hash(), TokenSecret([7; 32]).hash());
        assert!(TokenSecret::from_bytes(&[0; 31]).is_err());
    }
}
