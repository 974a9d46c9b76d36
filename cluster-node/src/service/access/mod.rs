//! Who may ask: credentials are made, listed and revoked here, and what clients show is judged.
//!
//! Judging looks into the state as this peer has applied it, each time anew: a credential works, and ends, with the entry
//! that made or revoked it, and no leader is needed for it. It costs one or two looks at rows that lie in the cache.

mod judge;
mod passwords;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cluster_consensus::Consensus;
use cluster_http::{Authenticate, Denied, Presented, Principal, Scopes};
use cluster_security::{ApiToken, Claims, LogLimit, PASSWORD_BYTES_MAX, generate_password};
use cluster_worker::Clock;
use node_core::command::{Op, RefusalKind, Request};
use node_core::pinset::{self, KvError, KvRead};
use node_core::{
    Credential, CredentialId, Namespace, SIGNING_KEY_BYTES, Scope, SecretHash, SigningKey, Timestamp,
    check_credential_name,
};

use super::reads::Shared;
use super::{Error, Pins, Proposer, Reads};
use judge::Wrong;
use passwords::Passwords;

/// How often another ID is tried where a random one is taken: with 10,000 credentials one in a hundred million is.
const IDS_TRIED: usize = 3;

/// How long the peer that was asked for a change waits until it has applied it itself.
const SHOW_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest that a signed web token may be asked to last. One without an end lasts as long as its credential.
pub const WEB_TOKEN_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// A credential to make.
#[derive(Debug, Clone)]
pub struct CredentialWish {
    /// Unique in the cluster.
    pub name: String,
    /// Whose pins.
    pub namespace: Namespace,
    /// How much it allows.
    pub scope: Scope,
    /// Worth nothing from then on.
    pub expires: Option<Timestamp>,
    /// What is to be shown.
    pub secret: SecretWish,
}

/// What a client is to show.
#[derive(Clone)]
pub enum SecretWish {
    /// A random token.
    Token,
    /// The name, and this password; a random one where there is none.
    Password(Option<String>),
}

impl std::fmt::Debug for SecretWish {
    /// Hides the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Token => "Token",
            Self::Password(Some(_)) => "Password(…)",
            Self::Password(None) => "Password",
        })
    }
}

/// What a client that has shown a credential may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// As the HTTP servers know it.
    pub principal: Principal,
    /// Of which credential.
    pub id: CredentialId,
    /// How much it allows.
    pub scope: Scope,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

impl Grant {
    fn of(credential: &Credential) -> Self {
        Self {
            principal: Principal {
                name: Some(credential.name.clone()),
                namespace: credential.namespace.clone(),
                scopes: scopes_of(credential.scope),
            },
            id: credential.id.clone(),
            scope: credential.scope,
            expires: credential.expires,
        }
    }
}

fn scopes_of(scope: Scope) -> Scopes {
    match scope {
        Scope::Read => Scopes::READ,
        Scope::Pin => Scopes::PIN,
        Scope::Admin => Scopes::ADMIN,
    }
}

/// The credentials of the cluster, as this peer knows them.
pub struct Access {
    reads: Reads,
    proposer: Proposer,
    consensus: Consensus,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    passwords: Passwords,
    refusals: LogLimit,
    /// Web tokens of those that nobody knows are tried with it, so that it takes as long.
    decoy_key: [u8; SIGNING_KEY_BYTES],
}

impl Access {
    /// Over the same parts as the pins.
    pub fn new(pins: &Pins) -> Self {
        Self {
            reads: pins.reads.clone(),
            proposer: pins.proposer.clone(),
            consensus: pins.consensus.clone(),
            shared: pins.shared.clone(),
            clock: pins.clock.clone(),
            passwords: Passwords::new(),
            refusals: LogLimit::default(),
            decoy_key: rand::random(),
        }
    }

    /// What the bearer of this may do.
    pub async fn authenticate(&self, presented: Presented<'_>) -> Result<Grant, Denied> {
        let credential = match presented {
            Presented::Bearer(text) => self.bearer(text),
            Presented::Basic { user, password } => self.basic(user, password).await,
        };
        credential.map(|credential| Grant::of(&credential))
    }

    /// The same for servers that may let in those who show nothing: then there is no grant.
    pub async fn admit(&self, presented: Option<Presented<'_>>, required: bool) -> Result<Option<Grant>, Denied> {
        match presented {
            Some(presented) => self.authenticate(presented).await.map(Some),
            None if required => Err(self.refuse(Denied::Missing, "missing", None)),
            None => Ok(None),
        }
    }

    /// Whether a grant still holds: its credential is there and its time is not over.
    pub fn holds(&self, grant: &Grant) -> bool {
        let found = pinset::credential(&*self.reads.stale(), &grant.id);
        // A state that can't be read tells nothing of the credential, and the peer leaves service for it.
        found.is_ok_and(|found| found.is_some_and(|credential| !credential.is_expired(self.clock.now())))
    }

    /// Ends when the grant does.
    pub fn until_over(self: &Arc<Self>, grant: &Grant) -> impl Future<Output = ()> + Send + use<> {
        let (access, grant) = (self.clone(), grant.clone());
        let mut changes = access.consensus.credentials();
        async move {
            while access.holds(&grant) {
                let left = grant.expires.map(|expires| expires.since(access.clock.now()));
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() {
                        // The peer stops, and says so in its own words.
                        return std::future::pending().await;
                    },
                    // A moment more, so that it is over when it is looked at again.
                    () = tokio::time::sleep(left.unwrap_or(Duration::MAX).saturating_add(Duration::from_millis(1))),
                        if left.is_some() => {}
                }
            }
        }
    }

    /// Counts what could not even be read.
    pub fn unreadable(&self) {
        self.refuse(Denied::Missing, "malformed", None);
    }

    /// Counts a caller that was let in and asked for more than it may, and says so in the log.
    pub fn overstepped(&self, grant: &Grant, reason: &'static str, what: &str) {
        self.shared.metrics.refused(reason);
        if let Some(suppressed) = self.refusals.allow() {
            let name = grant.principal.name.as_deref().unwrap_or_default();
            tracing::warn!(credential = %grant.id, name, reason, what, suppressed, "a client asked for more than it may");
        }
    }

    fn refuse_wrong(&self, wrong: &Wrong, denied: Denied) -> Denied {
        self.refuse(denied, wrong.reason(), wrong.about())
    }

    /// Counts and logs it, by ID and name where there is a credential. A name that nobody has may well be a password that
    /// was typed in the wrong place, and is not logged.
    fn refuse(&self, denied: Denied, reason: &'static str, about: Option<&Credential>) -> Denied {
        self.shared.metrics.refused(reason);
        if let Some(suppressed) = self.refusals.allow() {
            match about {
                Some(about) => {
                    tracing::warn!(credential = %about.id, name = %about.name, reason, suppressed, "a client was refused");
                }
                None => tracing::warn!(reason, suppressed, "a client was refused"),
            }
        }
        denied
    }

    fn bearer(&self, text: &str) -> Result<Credential, Denied> {
        let judged = self.look(|state| judge::bearer(state, text, self.clock.now(), &self.decoy_key))?;
        judged.map_err(|wrong| self.refuse_wrong(&wrong, Denied::InvalidToken))
    }

    async fn basic(&self, user: &str, password: &str) -> Result<Credential, Denied> {
        let credential = self.look(|state| pinset::credential_named(state, user))?;
        let Ok(are_right) = self.passwords.are_right(user, password, credential.as_ref()).await else {
            return Err(self.refuse(
                Denied::Unavailable("more passwords are being checked than this peer has room for".into()),
                "overloaded",
                credential.as_ref(),
            ));
        };
        // Looked at again: hashing takes its time, and what was revoked meanwhile must not come in after that.
        let id = credential.map(|credential| credential.id);
        let credential = match id {
            Some(id) => self.look(|state| pinset::credential(state, &id))?,
            None => None,
        };
        let judged = judge::judged(credential, are_right, self.clock.now());
        judged.map_err(|wrong| self.refuse_wrong(&wrong, Denied::Wrong))
    }

    fn look<T>(&self, read: impl FnOnce(&dyn KvRead) -> Result<T, KvError>) -> Result<T, Denied> {
        read(&*self.reads.stale()).map_err(|error| Denied::Unavailable(error.to_string()))
    }

    fn since_epoch(&self) -> Duration {
        Duration::from_millis(self.clock.now().as_millis())
    }

    /// A signed web token for the bearer of the credential of this name. It has an end where one is asked for; it is worth
    /// nothing any more when its credential is revoked or expires.
    pub fn issue_jwt(&self, name: &str, valid_for: Option<Duration>) -> Result<String, Error> {
        let gone = || Error::not_found(format!("there is no credential {name:?} any more"));
        let credential = pinset::credential_named(&*self.reads.stale(), name)?.ok_or_else(gone)?;
        let now = self.since_epoch();
        if let Some(asked) = valid_for.filter(|asked| asked.is_zero() || *asked > WEB_TOKEN_MAX) {
            let remedy =
                "use more than nothing and at most ten years, or leave it out: then it lasts as long as the credential";
            return Err(Error::invalid("valid_for", format!("{asked:?}"), remedy));
        }
        let claims = Claims {
            iss: credential.name,
            exp: valid_for.map(|valid_for| (now + valid_for).as_secs_f64()),
            nbf: None,
            iat: None,
        };
        cluster_security::sign(&claims, &credential.signing_key.0)
            .ok_or_else(|| Error::Internal("a token could not be signed".into()))
    }

    /// Makes a credential. `by` is who asked, for the log. Answers it with its secret, which is known nowhere else.
    pub async fn create(
        &self,
        wish: CredentialWish,
        by: Option<&str>,
        wait: Duration,
    ) -> Result<(Credential, String), Error> {
        check_credential_name(&wish.name).map_err(|message| refused(RefusalKind::Invalid, message))?;
        if wish.expires.is_some_and(|expires| expires <= self.clock.now()) {
            let expires = wish.expires.unwrap_or_default().to_string();
            return Err(Error::invalid("expires", expires, "it must be in the future"));
        }
        for attempt in 1.. {
            let (id, hash, secret) = self.secret(&wish.secret).await?;
            let credential = Credential {
                id,
                name: wish.name.clone(),
                secret: hash,
                namespace: wish.namespace.clone(),
                scope: wish.scope,
                signing_key: SigningKey(rand::random()),
                created: self.clock.now(),
                expires: wish.expires,
            };
            let op = Op::CreateCredential {
                credential: Box::new(credential.clone()),
            };
            match self.proposer.submit(Request { id: None, op }, wait).await {
                Err(Error::Refused(refusal)) if refusal.kind == RefusalKind::Conflict && attempt < IDS_TRIED => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    let made = self.applied(&credential.id).await.unwrap_or(credential);
                    tracing::info!(
                        credential = %made.id, name = %made.name, kind = made.kind(), namespace = %made.namespace,
                        scope = %made.scope, by = by.unwrap_or("nobody named"), "a credential was created"
                    );
                    return Ok((made, secret));
                }
            }
        }
        Err(Error::Internal("no ID was free".into()))
    }

    /// ID, what is kept, and what is shown once.
    async fn secret(&self, wish: &SecretWish) -> Result<(CredentialId, SecretHash, String), Error> {
        let password = match wish {
            SecretWish::Token => {
                let token = ApiToken::generate();
                return Ok((token.id(), SecretHash::Token(token.hash()), token.to_text()));
            }
            SecretWish::Password(None) => generate_password(),
            SecretWish::Password(Some(given)) => {
                let fits = (1..=PASSWORD_BYTES_MAX).contains(&given.len()) && !given.contains('\0');
                if !fits {
                    // Its length tells what is wrong, and nothing else of it may be told.
                    let given = format!("{} bytes", given.len());
                    let remedy = format!("1 to {PASSWORD_BYTES_MAX} bytes without NUL");
                    return Err(Error::invalid("password", given, remedy));
                }
                given.clone()
            }
        };
        let hash = self.passwords.hash(password.clone()).await;
        let hash = hash.ok().flatten().ok_or_else(|| Error::Overloaded {
            retry_after: Duration::from_secs(1),
        })?;
        let shown = match wish {
            SecretWish::Password(Some(_)) => String::new(),
            _ => password,
        };
        let id = CredentialId::from_bytes(rand::random());
        Ok((id, SecretHash::Password(hash), shown))
    }

    /// Waits until this peer has applied what was just committed, for a moment, and answers the credential as recorded.
    async fn applied(&self, id: &CredentialId) -> Option<Credential> {
        let state = self.reads.linearizable(SHOW_TIMEOUT).await.ok()?;
        pinset::credential(&*state, id).ok().flatten()
    }

    /// All credentials that this peer knows, in the order of their names.
    pub fn list(&self) -> Result<Vec<Credential>, Error> {
        let mut all = pinset::credentials(&*self.reads.stale())?;
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Makes the credential of this ID or name worth nothing, and answers what it was.
    pub async fn revoke(&self, id_or_name: &str, by: Option<&str>, wait: Duration) -> Result<Credential, Error> {
        let state = self.reads.linearizable(wait).await?;
        let found = match CredentialId::parse(id_or_name) {
            Some(id) => pinset::credential(&*state, &id)?,
            None => pinset::credential_named(&*state, id_or_name)?,
        };
        drop(state);
        let Some(credential) = found else {
            let given: String = id_or_name.chars().take(80).collect();
            let message = format!(
                "there is no credential {given:?}; `cluster-ctl token ls` and `cluster-ctl credential ls` show them"
            );
            return Err(Error::not_found(message));
        };
        let op = Op::RevokeCredential {
            id: credential.id.clone(),
        };
        self.proposer.submit(Request { id: None, op }, wait).await?;
        // So that it is over at the peer that says so.
        let _ = self.applied(&credential.id).await;
        tracing::info!(
            credential = %credential.id, name = %credential.name, kind = credential.kind(),
            by = by.unwrap_or("nobody named"), "a credential was revoked"
        );
        Ok(credential)
    }

    /// Whether a credential's time is over.
    pub fn is_expired(&self, credential: &Credential) -> bool {
        credential.is_expired(self.clock.now())
    }
}

fn refused(kind: RefusalKind, message: String) -> Error {
    Error::Refused(node_core::command::Refusal::new(kind, message))
}

/// Lets clients of an HTTP server in.
pub struct Gatekeeper {
    /// Knows the credentials.
    pub access: Arc<Access>,
    /// Whether those who show none stay outside.
    pub required: bool,
}

#[async_trait]
impl Authenticate for Gatekeeper {
    async fn authenticate(&self, presented: Option<Presented<'_>>) -> Result<Principal, Denied> {
        let grant = self.access.admit(presented, self.required).await?;
        Ok(grant.map_or_else(Principal::anybody, |grant| grant.principal))
    }
}
