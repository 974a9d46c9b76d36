//! Credentials of clients in the replicated state: their rows, and the two operations that change them.
//!
//! One table holds both ways to one: `c` and the ID lead to the credential, `n` and the name lead to the ID.

use prost::Message;

use super::apply::{Applier, Stop, refuse};
use super::codec::{by_code, open, seal};
use super::read::collect;
use super::view::{KvError, KvRead, Table};
use crate::command::{OpResult, RefusalKind};
use crate::credential::{CREDENTIALS_MAX, Credential, CredentialId, Scope, SecretHash, SigningKey};
use crate::{Namespace, Timestamp};

/// What the key of a credential begins with.
const BY_ID: u8 = b'c';
/// What the key of a name begins with.
const BY_NAME: u8 = b'n';

/// As it lies in the store, and in the log.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CredentialV1 {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    name: String,
    /// Of a token; 32 bytes.
    #[prost(bytes = "vec", tag = "3")]
    token_hash: Vec<u8>,
    /// Of a password. One of the two is set.
    #[prost(string, tag = "4")]
    password_hash: String,
    #[prost(string, tag = "5")]
    namespace: String,
    #[prost(uint32, tag = "6")]
    scope: u32,
    #[prost(bytes = "vec", tag = "7")]
    signing_key: Vec<u8>,
    #[prost(uint64, tag = "8")]
    created: u64,
    #[prost(uint64, optional, tag = "9")]
    expires: Option<u64>,
}

impl From<&Credential> for CredentialV1 {
    fn from(credential: &Credential) -> Self {
        let (token_hash, password_hash) = match &credential.secret {
            SecretHash::Token(hash) => (hash.to_vec(), String::new()),
            SecretHash::Password(hash) => (Vec::new(), hash.clone()),
        };
        Self {
            id: credential.id.as_str().to_owned(),
            name: credential.name.clone(),
            token_hash,
            password_hash,
            namespace: credential.namespace.to_string(),
            scope: credential.scope as u32,
            signing_key: credential.signing_key.0.to_vec(),
            created: credential.created.as_millis(),
            expires: credential.expires.map(Timestamp::as_millis),
        }
    }
}

impl CredentialV1 {
    pub fn read(self) -> Result<Credential, KvError> {
        let bad = |what: &str| KvError(format!("a credential can't be read: {what}"));
        let secret = match (self.token_hash.as_slice(), self.password_hash) {
            ([], password) if !password.is_empty() => SecretHash::Password(password),
            (token, password) if password.is_empty() => {
                SecretHash::Token(token.try_into().map_err(|_| bad("its hash does not have 32 bytes"))?)
            }
            _ => return Err(bad("it is both a token and a password")),
        };
        let signing_key = self.signing_key.try_into();
        Ok(Credential {
            id: read_id(&self.id)?,
            name: self.name,
            secret,
            namespace: Namespace::new(&self.namespace).map_err(|error| bad(&error.to_string()))?,
            scope: by_code(&Scope::ALL, self.scope, "the scope of a credential")?,
            signing_key: SigningKey(signing_key.map_err(|_| bad("its signing key does not have 32 bytes"))?),
            created: Timestamp::from_millis(self.created),
            expires: self.expires.map(Timestamp::from_millis),
        })
    }
}

pub(super) fn read_id(text: &str) -> Result<CredentialId, KvError> {
    CredentialId::parse(text).ok_or_else(|| KvError(format!("{text:?} is not the ID of a credential")))
}

fn id_key(id: &CredentialId) -> Vec<u8> {
    [&[BY_ID], id.as_str().as_bytes()].concat()
}

fn name_key(name: &str) -> Vec<u8> {
    [&[BY_NAME], name.as_bytes()].concat()
}

fn decode(bytes: &[u8]) -> Result<Credential, KvError> {
    open::<CredentialV1>("a credential", bytes)?.read()
}

/// The credential with this ID.
pub fn credential(kv: &dyn KvRead, id: &CredentialId) -> Result<Option<Credential>, KvError> {
    let row = kv.get(Table::Credentials, &id_key(id))?;
    row.map(|bytes| decode(&bytes)).transpose()
}

/// The credential with this name.
pub fn credential_named(kv: &dyn KvRead, name: &str) -> Result<Option<Credential>, KvError> {
    let Some(id) = kv.get(Table::Credentials, &name_key(name))? else {
        return Ok(None);
    };
    let id = std::str::from_utf8(&id).map_err(|_| KvError("the ID of a credential is no text".into()))?;
    credential(kv, &read_id(id)?)
}

/// All credentials in the order of their IDs, expired ones included. At most [`CREDENTIALS_MAX`].
pub fn credentials(kv: &dyn KvRead) -> Result<Vec<Credential>, KvError> {
    collect(kv, Table::Credentials, &[BY_ID], |_, value| decode(value))
}

pub(super) fn create(applier: &mut Applier<'_>, wanted: &Credential) -> Result<OpResult, Stop> {
    if let Err(invalid) = wanted.check() {
        return refuse(RefusalKind::Invalid, invalid);
    }
    if let Some(expires) = wanted.expires
        && wanted.is_expired(applier.time)
    {
        return refuse(
            RefusalKind::Invalid,
            format!("expires {:?}: it must be in the future", expires.to_string()),
        );
    }
    if credential(applier.kv, &wanted.id)?.is_some() {
        return refuse(
            RefusalKind::Conflict,
            format!("the ID {} is that of another credential; choose another", wanted.id),
        );
    }
    let same_name = credential_named(applier.kv, &wanted.name)?;
    if let Some(other) = &same_name
        && !other.is_expired(applier.time)
    {
        let message = format!(
            "the name {:?} is that of the credential {}; choose another, or revoke that one first",
            other.name, other.id
        );
        return refuse(RefusalKind::AlreadyExists, message);
    }
    // Kept as long as there is room, so that whoever wonders why it is refused finds it in the list. Looked for when
    // there is none left: the count is exact, so that is the only time.
    let mut expired: Vec<Credential> = same_name.into_iter().collect();
    if applier.header.credentials >= CREDENTIALS_MAX {
        expired = credentials(applier.kv)?;
        expired.retain(|credential| credential.is_expired(applier.time));
        if expired.is_empty() {
            return refuse(
                RefusalKind::Precondition,
                format!("there are {CREDENTIALS_MAX} credentials, the most there can be; revoke some"),
            );
        }
    }
    for old in &expired {
        remove(applier, old);
    }
    let made = Credential {
        created: applier.time,
        ..wanted.clone()
    };
    applier.header.credentials += 1;
    let row = seal(&CredentialV1::from(&made));
    applier.kv.put(Table::Credentials, id_key(&made.id), row);
    let id = made.id.as_str().as_bytes().to_vec();
    applier.kv.put(Table::Credentials, name_key(&made.name), id);
    applier.effects.credentials_changed = true;
    Ok(OpResult::Done)
}

pub(super) fn revoke(applier: &mut Applier<'_>, id: &CredentialId) -> Result<OpResult, Stop> {
    let Some(credential) = credential(applier.kv, id)? else {
        return refuse(RefusalKind::NotFound, format!("there is no credential {id}"));
    };
    remove(applier, &credential);
    Ok(OpResult::Done)
}

fn remove(applier: &mut Applier<'_>, credential: &Credential) {
    applier.kv.delete(Table::Credentials, id_key(&credential.id));
    applier.kv.delete(Table::Credentials, name_key(&credential.name));
    applier.header.credentials = applier.header.credentials.saturating_sub(1);
    applier.effects.credentials_changed = true;
}

/// Every credential is found by its name and by nothing else, and the header counts them.
pub(super) fn check(kv: &dyn KvRead, counted: u64) -> Result<(), String> {
    let text = |error: KvError| error.to_string();
    let all = credentials(kv).map_err(text)?;
    let mut expected: Vec<Vec<u8>> = all.iter().map(|credential| name_key(&credential.name)).collect();
    expected.sort();
    let found = collect(kv, Table::Credentials, &[BY_NAME], |key, _| Ok(key.to_vec())).map_err(text)?;
    if expected != found {
        return Err(format!(
            "credentials are named {expected:02x?}, and found by {found:02x?}"
        ));
    }
    for credential in &all {
        if credential_named(kv, &credential.name).map_err(text)?.as_ref() != Some(credential) {
            return Err(format!("the name of the credential {} leads to another", credential.id));
        }
        credential.check()?;
    }
    if counted != all.len() as u64 || counted > CREDENTIALS_MAX {
        return Err(format!(
            "the header counts {counted} credentials; there are {}",
            all.len()
        ));
    }
    Ok(())
}
