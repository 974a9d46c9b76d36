//! Who may ask what: tokens and passwords of clients, as the cluster keeps them.

use std::fmt;

use crate::{Namespace, Timestamp};

/// Most credentials in one cluster. Each takes about 300 bytes, a list of them all is one message of a few megabytes, and
/// making one more than fits looks at all of them once for expired ones.
pub const CREDENTIALS_MAX: u64 = 10_000;

/// Bytes of the key with which a credential's web tokens are signed: as many as HMAC-SHA-256 puts out, which RFC 7518
/// section 3.2 asks for.
pub const SIGNING_KEY_BYTES: usize = 32;

/// Longest hash of a password. One in PHC form with a salt of 16 bytes and a hash of 32 has about 100.
const PASSWORD_HASH_BYTES_MAX: usize = 256;

/// What every hash of a password begins with.
const PASSWORD_HASH_PREFIX: &str = "$argon2id$";

/// How much a credential lets its bearer do. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Look at pins, their status and content, and at the cluster.
    Read,
    /// Also add content, pin and unpin.
    Pin,
    /// Everything, in every namespace: peers, nodes, settings, credentials.
    Admin,
}

impl Scope {
    /// All scopes, in the order of their codes, which is from the least to the most.
    pub const ALL: [Self; 3] = [Self::Read, Self::Pin, Self::Admin];

    /// The word used in tables and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Pin => "pin",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names a credential in lists, logs and in the text of a token: 8 letters and digits. It is no secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CredentialId(String);

impl CredentialId {
    /// Bytes of an ID before it is written as text.
    pub const BYTES: usize = 5;
    /// Characters of an ID: base 32 takes five bits each.
    pub const CHARS: usize = 8;

    /// The ID that five bytes make: base 32 in small letters (RFC 4648 section 6), as that is easy to type.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        const ALPHABET: [char; 32] = [
            'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r', 's', 't', 'u',
            'v', 'w', 'x', 'y', 'z', '2', '3', '4', '5', '6', '7',
        ];
        let bits = bytes.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        let digit = |at: usize| ALPHABET[(bits >> (5 * (Self::CHARS - 1 - at)) & 31) as usize];
        Self((0..Self::CHARS).map(digit).collect())
    }

    /// Reads the text; none when it is no ID.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = text.len() == Self::CHARS && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
        fits.then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the cluster keeps of a secret: enough to know it again, and not to show it.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretHash {
    /// SHA-256 of a token, which is random and long, so that neither salt nor a slow hash is needed.
    Token([u8; 32]),
    /// Argon2id of a password, with its salt and costs, in PHC form: a person chose it, and it may be guessed.
    Password(String),
}

impl fmt::Debug for SecretHash {
    /// Hides the hash: a password's can be tried out by whoever has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token(…)",
            Self::Password(_) => "Password(…)",
        })
    }
}

/// A key that signs web tokens. `Debug` hides it; there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey(pub [u8; SIGNING_KEY_BYTES]);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

/// A token or a name with a password, and what it is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Unique in the cluster, also among those of before as far as chance can give it.
    pub id: CredentialId,
    /// Unique in the cluster; the user's name where there is a password.
    pub name: String,
    /// What is known of the secret.
    pub secret: SecretHash,
    /// Whose pins its bearer sees and changes. With the scope `admin`: those meant where a call names none.
    pub namespace: Namespace,
    /// How much its bearer may do.
    pub scope: Scope,
    /// Signs the web tokens that its bearer asks for. Random, and gone with the credential, so that they are too.
    pub signing_key: SigningKey,
    /// By the clock of the leader; what is given when it is made does not count.
    pub created: Timestamp,
    /// Worth nothing from then on.
    pub expires: Option<Timestamp>,
}

impl Credential {
    /// The word for its kind: `token` or `basic`.
    pub fn kind(&self) -> &'static str {
        match self.secret {
            SecretHash::Token(_) => "token",
            SecretHash::Password(_) => "basic",
        }
    }

    /// Whether its time is over.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Checks everything but the time. An error says what is wrong and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        check_credential_name(&self.name)?;
        match &self.secret {
            SecretHash::Password(hash)
                if hash.len() > PASSWORD_HASH_BYTES_MAX || !hash.starts_with(PASSWORD_HASH_PREFIX) =>
            {
                Err(format!(
                    "the hash of a password begins with {PASSWORD_HASH_PREFIX} and has at most {PASSWORD_HASH_BYTES_MAX} bytes"
                ))
            }
            SecretHash::Password(_) | SecretHash::Token(_) => Ok(()),
        }
    }
}

/// Checks a credential's name. It is the user's name in HTTP's Basic scheme, which ends it at the first colon, and it is
/// never mistaken for an ID.
pub fn check_credential_name(name: &str) -> Result<(), String> {
    const RULE: &str = "1 to 63 of a-z A-Z 0-9 - _ . @ +, beginning with a letter or digit, and not 8 of a-z 2-7 alone";
    let fits = !name.is_empty()
        && name.len() <= 63
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@' | b'+'))
        && CredentialId::parse(name).is_none();
    if fits {
        return Ok(());
    }
    let begin: String = name.chars().take(80).collect();
    Err(format!("name {begin:?}: it is {RULE}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_base_32() {
        // RFC 4648 section 10: BASE32("fooba") = "MZXW6YTB".
        let id = CredentialId::from_bytes(*b"fooba");
        assert_eq!(id.as_str(), "mzxw6ytb");
        assert_eq!(CredentialId::parse("mzxw6ytb"), Some(id));
        for bad in ["", "mzxw6yt", "mzxw6ytbb", "MZXW6YTB", "mzxw6yt1", "mzxw6yté"] {
            assert_eq!(CredentialId::parse(bad), None, "{bad}");
        }
        assert_eq!(CredentialId::from_bytes([0; 5]).as_str(), "aaaaaaaa");
        assert_eq!(CredentialId::from_bytes([255; 5]).as_str(), "77777777");
    }

    #[test]
    fn a_name_is_no_id_and_fits_into_basic() {
        for good in [
            "a",
            "alice",
            "alice@example.org",
            "ci+deploy",
            "8",
            "abcdefg",
            "Abcdefgh",
            "abcdefg1",
        ] {
            assert_eq!(check_credential_name(good), Ok(()), "{good}");
        }
        for bad in ["", "mzxw6ytb", "a:b", "a b", "-a", ".a", "é", &"a".repeat(64), "a\n"] {
            let error = check_credential_name(bad).expect_err(bad);
            assert!(error.starts_with("name \"") && error.contains("1 to 63"), "{error}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let credential = Credential {
            id: CredentialId::from_bytes([1; 5]),
            name: "alice".into(),
            secret: SecretHash::Password("$argon2id$hunter2".into()),
            namespace: Namespace::default(),
            scope: Scope::Pin,
            signing_key: SigningKey([231; 32]),
            created: Timestamp::ZERO,
            expires: None,
        };
        let shown = format!("{credential:?}");
        assert!(
            shown.contains("alice") && !shown.contains("hunter2") && !shown.contains("231"),
            "{shown}"
        );
        let shown = format!("{:?}", SecretHash::Token([231; 32]));
        assert!(!shown.contains("231"), "{shown}");
    }

    #[test]
    fn scopes_include_those_before_them() {
        assert!(Scope::Admin > Scope::Pin && Scope::Pin > Scope::Read);
        for (code, scope) in Scope::ALL.into_iter().enumerate() {
            assert_eq!(scope as usize, code);
        }
    }
}
