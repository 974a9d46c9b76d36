//! Whether what a client shows as a bearer is right, by the state alone.

use std::time::Duration;

use cluster_security::{ApiToken, WebToken};
use node_core::pinset::{self, KvError, KvRead};
use node_core::{Credential, SIGNING_KEY_BYTES, SecretHash, Timestamp};

/// Why it is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is no token at all.
    Malformed,
    /// Nobody has it, or nobody any more.
    Unknown,
    /// It is not that of the credential which it names.
    Secret(Box<Credential>),
    /// Its time is over.
    Expired(Box<Credential>),
}

impl Wrong {
    /// The word in metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Secret(_) => "wrong",
            Self::Expired(_) => "expired",
        }
    }

    /// The credential in question.
    pub fn about(&self) -> Option<&Credential> {
        match self {
            Self::Malformed | Self::Unknown => None,
            Self::Secret(credential) | Self::Expired(credential) => Some(credential),
        }
    }
}

/// Judges a token of ours, or a signed web token. `decoy_key` is what a web token of nobody is tried with.
pub(super) fn bearer(
    kv: &dyn KvRead,
    text: &str,
    now: Timestamp,
    decoy_key: &[u8; SIGNING_KEY_BYTES],
) -> Result<Result<Credential, Wrong>, KvError> {
    let (credential, is_right) = if ApiToken::is_meant(text) {
        let Ok(token) = ApiToken::parse(text) else {
            return Ok(Err(Wrong::Malformed));
        };
        let credential = pinset::credential(kv, &token.id())?;
        let is_right = match credential.as_ref().map(|credential| &credential.secret) {
            Some(SecretHash::Token(hash)) => token.is_that_of(hash),
            Some(SecretHash::Password(_)) | None => false,
        };
        (credential, is_right)
    } else {
        let Some(token) = WebToken::parse(text) else {
            return Ok(Err(Wrong::Malformed));
        };
        let credential = pinset::credential_named(kv, token.issuer())?;
        let key = credential
            .as_ref()
            .map_or(decoy_key, |credential| &credential.signing_key.0);
        let is_right = token.is_valid(key, Duration::from_millis(now.as_millis()));
        (credential, is_right)
    };
    Ok(judged(credential, is_right, now))
}

/// What becomes of a credential that was found, or not.
pub(super) fn judged(credential: Option<Credential>, is_right: bool, now: Timestamp) -> Result<Credential, Wrong> {
    match credential {
        None => Err(Wrong::Unknown),
        Some(credential) if !is_right => Err(Wrong::Secret(Box::new(credential))),
        Some(credential) if credential.is_expired(now) => Err(Wrong::Expired(Box::new(credential))),
        Some(credential) => Ok(credential),
    }
}

#[cfg(test)]
mod tests {
    use cluster_security::{Claims, sign};
    use node_core::command::{CommandBatch, Op, OpResult, Request};
    use node_core::pinset::{Effects, MemoryKv};
    use node_core::{CredentialId, Namespace, Scope, SigningKey};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);
    const DECOY: [u8; 32] = [9; 32];

    fn apply(kv: &mut MemoryKv, op: Op) {
        let batch = CommandBatch {
            time: NOW,
            requests: vec![Request { id: None, op }],
        };
        let results = pinset::apply(kv, 2, &batch, &mut Effects::default()).expect("memory");
        assert_eq!(results, [OpResult::Done]);
    }

    fn create(kv: &mut MemoryKv, name: &str, token: &ApiToken, expires: Option<Timestamp>) -> Credential {
        let credential = Credential {
            id: token.id(),
            name: name.into(),
            secret: SecretHash::Token(token.hash()),
            namespace: Namespace::default(),
            scope: Scope::Pin,
            signing_key: SigningKey(rand::random()),
            created: NOW,
            expires,
        };
        apply(
            kv,
            Op::CreateCredential {
                credential: Box::new(credential.clone()),
            },
        );
        credential
    }

    fn judge(kv: &MemoryKv, text: &str, now: Timestamp) -> Result<String, &'static str> {
        let judged = bearer(kv, text, now, &DECOY).expect("memory");
        judged.map(|credential| credential.name).map_err(|wrong| wrong.reason())
    }

    fn web_token(iss: &str, key: &[u8], exp: Option<f64>) -> String {
        let claims = Claims {
            iss: iss.into(),
            exp,
            nbf: None,
            iat: None,
        };
        sign(&claims, key).expect("signed")
    }

    #[test]
    fn a_token_is_good_until_it_expires_or_is_revoked() {
        let mut kv = MemoryKv::default();
        let (one, other) = (ApiToken::generate(), ApiToken::generate());
        let end = NOW.plus(Duration::from_secs(1));
        create(&mut kv, "one", &one, Some(end));
        assert_eq!(judge(&kv, &one.to_text(), NOW), Ok("one".into()));
        assert_eq!(judge(&kv, &one.to_text(), end), Err("expired"));
        assert_eq!(judge(&kv, &other.to_text(), NOW), Err("unknown"));
        for text in ["", "pft_", "pft_one", "nonsense", &one.to_text()[..40], "one"] {
            assert_eq!(judge(&kv, text, NOW), Err("malformed"), "{text}");
        }
        apply(&mut kv, Op::RevokeCredential { id: one.id() });
        assert_eq!(judge(&kv, &one.to_text(), NOW), Err("unknown"));
    }

    /// The ID is no secret: who knows it and nothing else has nothing.
    #[test]
    fn the_id_alone_is_worth_nothing() {
        let mut kv = MemoryKv::default();
        let (one, other) = (ApiToken::generate(), ApiToken::generate());
        let known = create(&mut kv, "one", &one, None);
        // The credential of that ID has another secret now.
        apply(&mut kv, Op::RevokeCredential { id: one.id() });
        let op = Op::CreateCredential {
            credential: Box::new(Credential {
                secret: SecretHash::Token(other.hash()),
                ..known
            }),
        };
        apply(&mut kv, op);
        assert_eq!(judge(&kv, &one.to_text(), NOW), Err("wrong"));
    }

    #[test]
    fn a_web_token_is_that_of_a_name_and_ends_with_its_credential() {
        let mut kv = MemoryKv::default();
        let alice = create(&mut kv, "alice", &ApiToken::generate(), None);
        let bob = create(&mut kv, "bob", &ApiToken::generate(), None);
        let (key, bobs) = (alice.signing_key.0, bob.signing_key.0);
        let now = 1_000.0;
        assert_eq!(judge(&kv, &web_token("alice", &key, None), NOW), Ok("alice".into()));
        assert_eq!(
            judge(&kv, &web_token("alice", &key, Some(now + 1.0)), NOW),
            Ok("alice".into())
        );
        assert_eq!(judge(&kv, &web_token("alice", &key, Some(now)), NOW), Err("wrong"));
        assert_eq!(judge(&kv, &web_token("alice", &bobs, None), NOW), Err("wrong"));
        assert_eq!(judge(&kv, &web_token("nobody", &key, None), NOW), Err("unknown"));
        // Not even with the key that those of nobody are tried with.
        assert_eq!(judge(&kv, &web_token("nobody", &DECOY, None), NOW), Err("unknown"));
        // A credential's key is its own: one of the same name signs with another.
        apply(&mut kv, Op::RevokeCredential { id: alice.id });
        assert_eq!(judge(&kv, &web_token("alice", &key, None), NOW), Err("unknown"));
        create(&mut kv, "alice", &ApiToken::generate(), None);
        assert_eq!(judge(&kv, &web_token("alice", &key, None), NOW), Err("wrong"));
    }

    #[test]
    fn what_has_a_password_is_no_bearer_of_its_id() {
        let mut kv = MemoryKv::default();
        let token = ApiToken::generate();
        let op = Op::CreateCredential {
            credential: Box::new(Credential {
                id: token.id(),
                name: "alice".into(),
                secret: SecretHash::Password("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA".into()),
                namespace: Namespace::default(),
                scope: Scope::Pin,
                signing_key: SigningKey([1; 32]),
                created: NOW,
                expires: None,
            }),
        };
        apply(&mut kv, op);
        assert_eq!(judge(&kv, &token.to_text(), NOW), Err("wrong"));
        assert!(CredentialId::parse(token.id().as_str()).is_some());
    }
}
