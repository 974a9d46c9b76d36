//! Identities as types, so that none is mistaken for another.

use std::fmt;
use std::str::FromStr;

/// A peer's identity: the multihash of its Ed25519 public key, printed as libp2p does (`12D3KooW…`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(multiaddr::PeerId);

/// Longest text that can be a peer ID: a multihash with a digest of at most 64 bytes, and base58 takes 11 characters for 8
/// bytes. Reading base58 takes the square of its length: a megabyte of it would keep a processor busy for minutes.
const PEER_ID_CHARS_MAX: usize = 128;

/// A text that is no peer ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a peer ID; it looks like 12D3KooW…")]
pub struct PeerIdError(String);

impl PeerIdError {
    /// What was given, cut to 80 characters.
    pub fn given(&self) -> &str {
        &self.0
    }
}

impl PeerId {
    /// The multihash bytes.
    pub fn to_bytes(self) -> Vec<u8> {
        self.0.to_bytes()
    }

    /// Parses multihash bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PeerIdError> {
        let hex = || bytes.iter().take(16).map(|b| format!("{b:02x}")).collect();
        multiaddr::PeerId::from_bytes(bytes)
            .map(Self)
            .map_err(|_| PeerIdError(hex()))
    }

    /// The last six characters: enough to tell peers apart in a table.
    pub fn short(&self) -> String {
        let text = self.0.to_base58();
        text[text.len().saturating_sub(6)..].to_owned()
    }
}

impl From<multiaddr::PeerId> for PeerId {
    fn from(id: multiaddr::PeerId) -> Self {
        Self(id)
    }
}

impl FromStr for PeerId {
    type Err = PeerIdError;

    fn from_str(text: &str) -> Result<Self, PeerIdError> {
        let refused = || PeerIdError(text.chars().take(80).collect());
        if text.len() > PEER_ID_CHARS_MAX {
            return Err(refused());
        }
        text.parse().map(Self).map_err(|_| refused())
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_base58())
    }
}

/// A storage node's identity: a number given out by the pinset in order, never used twice. Printed as `n7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl FromStr for NodeId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.strip_prefix('n')
            .and_then(|digits| digits.parse().ok())
            .map(NodeId)
            .ok_or_else(|| InvalidId::new("node ID", text, "it is `n` and a number"))
    }
}

/// An identity that breaks its rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {given:?} is not valid: {rule}")]
pub struct InvalidId {
    kind: &'static str,
    given: String,
    rule: &'static str,
}

impl InvalidId {
    fn new(kind: &'static str, given: &str, rule: &'static str) -> Self {
        Self {
            kind,
            given: given.chars().take(80).collect(),
            rule,
        }
    }

    /// What was meant to be given.
    pub fn field(&self) -> &'static str {
        self.kind
    }

    /// What was given, cut to 80 characters.
    pub fn given(&self) -> &str {
        &self.given
    }

    /// What is allowed.
    pub fn rule(&self) -> &'static str {
        self.rule
    }
}

/// Whose pins they are. Pins of different namespaces never touch each other; their content is held once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(String);

impl Namespace {
    /// The name of the namespace used when none is given.
    pub const DEFAULT: &'static str = "default";

    /// Parses a name; the empty text is the default namespace.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        const RULE: &str = "1 to 63 of a-z 0-9 - _, beginning with a letter or digit";
        if text.is_empty() {
            return Ok(Self::default());
        }
        let mut bytes = text.bytes();
        let first = bytes
            .next()
            .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let rest = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        if first && rest && text.len() <= 63 {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId::new("namespace", text, RULE))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one request of a client, so that repeating it is safe: 1 to 64 bytes without NUL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(String);

impl RequestId {
    /// Parses a request ID.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        if text.is_empty() || text.len() > 64 || text.contains('\0') {
            return Err(InvalidId::new("request ID", text, "1 to 64 bytes without NUL"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Name of a peer or storage node: what operators type, so it has no spaces and is never mistaken for an ID.
pub fn check_name(kind: &'static str, text: &str) -> Result<(), InvalidId> {
    const RULE: &str = "1 to 63 of a-z A-Z 0-9 - _ ., beginning with a letter or digit, and not `n` and a number";
    let ok = !text.is_empty()
        && text.len() <= 63
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && text.parse::<NodeId>().is_err();
    if ok {
        Ok(())
    } else {
        Err(InvalidId::new(kind, text, RULE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_far_too_long_is_refused_at_once() {
        // Read as a number of base 58 this would take hours.
        let error = "x".repeat(10_000_000).parse::<PeerId>().expect_err("no ID");
        assert_eq!(error.given().len(), 80);
        // The longest that there are: of a key of 42 bytes that stands in the ID itself.
        let longest = [&[0, 42][..], &[0xff; 42]].concat();
        let longest = PeerId::from_bytes(&longest).expect("a key of the longest that are written out");
        assert_eq!(longest.to_string().parse(), Ok(longest));
    }
}
