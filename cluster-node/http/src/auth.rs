//! Who asks, and what they may do. Whether credentials are right is for the server's [`Authenticate`] to say.

use async_trait::async_trait;
use axum::extract::FromRequestParts;
use futures::future::{BoxFuture, FutureExt as _};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use multibase::Base;
use node_core::Namespace;

use crate::Failure;
use crate::failure::header_text;

/// What the client says its rights are restricted to; the text of IPFS Cluster.
pub const REALM: &str = "Restricted IPFS Cluster API";

/// Why a request ends that was let in.
pub(crate) const OVER: &str = "unauthorized: the credential of this request was revoked or has expired";

/// The error of a body that is not read on, or not sent on, for that reason.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("{OVER}")]
pub(crate) struct NoLongerGranted;

/// Credentials as they came in, not looked at yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presented<'a> {
    /// `Authorization: Basic`; neither is empty.
    Basic {
        /// Whose they are.
        user: &'a str,
        /// In plain text.
        password: &'a str,
    },
    /// `Authorization: Bearer`; not empty.
    Bearer(&'a str),
}

/// Knows credentials. Called once a request, before anything else is done for it.
#[async_trait]
pub trait Authenticate: Lasting {
    /// Who presents this. Comparing takes the same time whatever was presented. Where nobody needs credentials, the answer is
    /// [`Principal::anybody`].
    async fn authenticate(&self, presented: Option<Presented<'_>>) -> Result<Principal, Denied>;
}

/// Knows how long credentials are worth something, and what to make of what are none.
#[async_trait]
pub trait Lasting: Send + Sync + 'static {
    /// Is done when what was presented, and was right a moment ago, is worth nothing any more: the request ends then. By
    /// default it never is.
    async fn until_over(&self, presented: Presented<'_>) -> Result<BoxFuture<'static, ()>, Denied> {
        let _ = presented;
        Ok(std::future::pending().boxed())
    }

    /// Told of an `Authorization` header that can't be read, or is empty in any part. By default such a client is refused even
    /// where nobody needs credentials: it takes itself for somebody, and must not go on as anybody.
    fn unreadable(&self) -> Result<(), Denied> {
        Err(Denied::Missing)
    }
}

/// For servers that ask nobody who they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Open;

impl Lasting for Open {
    fn unreadable(&self) -> Result<(), Denied> {
        Ok(())
    }
}

#[async_trait]
impl Authenticate for Open {
    async fn authenticate(&self, _: Option<Presented<'_>>) -> Result<Principal, Denied> {
        Ok(Principal::anybody())
    }
}

/// Who asks. In each request as an extension, and an extractor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The name of the credentials; `None` where nobody was asked.
    pub name: Option<String>,
    /// The pins that are theirs.
    pub namespace: Namespace,
    /// What they may do.
    pub scopes: Scopes,
}

impl Principal {
    /// Where no credentials are asked for: anybody may do anything, as in IPFS Cluster.
    pub fn anybody() -> Self {
        Self {
            name: None,
            namespace: Namespace::default(),
            scopes: Scopes::ADMIN,
        }
    }

    /// Somebody without rights: who asks for what is open to all.
    pub(crate) fn nobody() -> Self {
        Self {
            scopes: Scopes::NONE,
            ..Self::anybody()
        }
    }

    /// Fine if they may, else the 403 to answer.
    pub fn require(&self, scope: Scope) -> Result<(), Failure> {
        if self.scopes.contains(scope) {
            return Ok(());
        }
        let who = match &self.name {
            Some(name) => format!("the credentials {name:?} lack"),
            None => "this takes credentials with".to_owned(),
        };
        Err(Failure::forbidden(format!(
            "forbidden: {who} the scope {}",
            scope.name()
        )))
    }
}

impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        // Each request that comes through a server has one; a router that is called without any has forgotten it.
        parts
            .extensions
            .get()
            .cloned()
            .ok_or_else(|| Failure::internal("this request was not authenticated"))
    }
}

/// A right. Each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// To see pins, status and peers.
    Read,
    /// To add, pin and unpin.
    Pin,
    /// To change the cluster.
    Admin,
}

impl Scope {
    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Pin => "pin",
            Self::Admin => "admin",
        }
    }
}

/// The rights of somebody: all scopes up to one, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Scopes(Option<Scope>);

impl Scopes {
    /// No right at all.
    pub const NONE: Self = Self(None);
    /// To read only.
    pub const READ: Self = Self(Some(Scope::Read));
    /// To pin, and so to read.
    pub const PIN: Self = Self(Some(Scope::Pin));
    /// Everything.
    pub const ADMIN: Self = Self(Some(Scope::Admin));

    /// This scope and all that it includes.
    pub fn up_to(scope: Scope) -> Self {
        Self(Some(scope))
    }

    /// Whether the scope is among them.
    pub fn contains(self, scope: Scope) -> bool {
        self.0 >= Some(scope)
    }
}

/// Why somebody may not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// Credentials are needed, and none came that can be read.
    Missing,
    /// User and password are not right.
    Wrong,
    /// The token is not right, or not any more.
    InvalidToken,
    /// It can't be told now, for this reason: 503.
    Unavailable(String),
}

impl Denied {
    /// The answer: what its body says, and the headers beside it. Texts and headers are those of IPFS Cluster.
    pub(crate) fn told(&self, realm: &str) -> (Failure, Vec<(HeaderName, HeaderValue)>) {
        // Within quotes a backslash or a quote would end the realm early.
        let realm: String = realm.chars().filter(|c| !matches!(c, '"' | '\\')).collect();
        let bearer = format!("Bearer realm=\"{realm}\"");
        let basic = format!("Basic realm=\"{realm}\"");
        let (text, challenges) = match self {
            Self::Missing => ("unauthorized: no auth provided", vec![bearer, basic]),
            Self::Wrong => ("unauthorized: access denied", vec![basic]),
            Self::InvalidToken => {
                let bearer = format!("{bearer}, error=\"invalid_token\"");
                ("unauthorized: invalid token", vec![bearer])
            }
            Self::Unavailable(reason) => {
                let text = format!("credentials can't be checked now: {reason}");
                return (Failure::busy(text, std::time::Duration::from_secs(1)), Vec::new());
            }
        };
        let challenges = challenges
            .iter()
            .map(|text| (header::WWW_AUTHENTICATE, header_text(text, 512)))
            .collect();
        (Failure::new(StatusCode::UNAUTHORIZED, text), challenges)
    }
}

/// What is open to all: what a browser asks before it may send credentials, and whether the peer is alive.
pub(crate) fn is_exempt(method: &Method, path: &str) -> bool {
    method == Method::OPTIONS || (method == Method::GET && path == "/health")
}

/// An `Authorization` header that is neither form, or empty in any part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreadable;

impl Unreadable {
    /// What its client is told.
    pub const TOLD: &str =
        "unauthorized: the header Authorization is neither `Bearer TOKEN` nor `Basic` and base 64 of NAME:PASSWORD";
}

/// The credentials of a request, owned since Basic ones are decoded.
pub(crate) enum Shown {
    Basic { user: String, password: String },
    Bearer(String),
}

impl Shown {
    /// Reads the first `Authorization` header. `None` when there is no such header.
    pub fn read(headers: &HeaderMap) -> Result<Option<Self>, Unreadable> {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Ok(None);
        };
        Self::parse(value).map(Some).ok_or(Unreadable)
    }

    fn parse(value: &HeaderValue) -> Option<Self> {
        let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
        let rest = rest.trim();
        if rest.is_empty() {
            return None;
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Bearer(rest.to_owned()));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let plain = String::from_utf8(Base::Base64Pad.decode(rest).ok()?).ok()?;
        let (user, password) = plain.split_once(':')?;
        if user.is_empty() || password.is_empty() {
            return None;
        }
        Some(Self::Basic {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    /// What to say when they are worth nothing any more.
    pub fn denied(&self) -> Denied {
        match self {
            Self::Basic { .. } => Denied::Wrong,
            Self::Bearer(_) => Denied::InvalidToken,
        }
    }

    pub fn presented(&self) -> Presented<'_> {
        match self {
            Self::Basic { user, password } => Presented::Basic { user, password },
            Self::Bearer(token) => Presented::Bearer(token),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &str) -> Result<Shown, Unreadable> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        Shown::read(&headers).map(|shown| shown.expect("there is a header"))
    }

    #[test]
    fn credentials_are_read_whatever_the_case_of_their_scheme() {
        for value in ["Basic dXNlcjpwYTpzcw==", "bASIC  dXNlcjpwYTpzcw== "] {
            let read = shown(value).ok().unwrap();
            assert_eq!(
                read.presented(),
                Presented::Basic {
                    user: "user",
                    password: "pa:ss"
                }
            );
        }
        let read = shown("BEARER a.b.c").ok().unwrap();
        assert_eq!(read.presented(), Presented::Bearer("a.b.c"));
    }

    #[test]
    fn what_cant_be_read_or_is_empty_is_not_taken_for_nothing() {
        // In order: nothing at all, nothing behind the scheme, no Base64, no colon, no user, no password, an unknown scheme.
        let values = [
            "",
            "Bearer",
            "Bearer ",
            "Basic ?",
            "Basic dXNlcg==",
            "Basic OnBhc3M=",
            "Basic dXNlcjo=",
            "Digest a",
        ];
        for value in values {
            assert!(shown(value).is_err(), "{value}");
        }
        assert!(Shown::read(&HeaderMap::new()).is_ok_and(|shown| shown.is_none()));
    }

    #[test]
    fn each_scope_includes_those_before_it() {
        let all = [Scope::Read, Scope::Pin, Scope::Admin];
        for have in all {
            for want in all {
                assert_eq!(Scopes::up_to(have).contains(want), have >= want);
            }
            assert!(!Scopes::NONE.contains(have));
        }
        let principal = Principal {
            name: Some("ci".to_owned()),
            scopes: Scopes::READ,
            ..Principal::anybody()
        };
        principal.require(Scope::Read).unwrap();
        let failure = principal.require(Scope::Pin).unwrap_err();
        assert_eq!(failure.status, 403);
        assert_eq!(failure.message, "forbidden: the credentials \"ci\" lack the scope pin");
    }

    #[test]
    fn only_options_and_the_check_of_health_are_open_to_all() {
        assert!(is_exempt(&Method::OPTIONS, "/pins"));
        assert!(is_exempt(&Method::GET, "/health"));
        for path in ["/health/", "/health/graph", "//health"] {
            assert!(!is_exempt(&Method::GET, path));
        }
        assert!(!is_exempt(&Method::POST, "/health"));
    }
}
