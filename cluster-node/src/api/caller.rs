//! Who calls over gRPC: judged before the handlers, by what the metadata shows and what the method asks for.
//!
//! ```text
//! call ─► health: open ─► credential: right? ─► scope of the method ─► handler: namespace ─► answer, cut when it is revoked
//! ```

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use cluster_http::{Denied, Presented};
use futures::future::{BoxFuture, Either};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use node_core::command::{Refusal, RefusalKind};
use node_core::{Namespace, Scope};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tower::{Layer, Service};

use super::error::{DOMAIN, status};
use crate::service::{Access, Error, Grant};

/// Whether a peer can take work is asked by those who know no secrets.
const OPEN: &str = "/grpc.health.v1.Health/";

/// What each method asks for. A test holds it against the descriptors, so that none is forgotten; one that is not here asks
/// for everything.
const SCOPES: [(&str, Scope); 31] = [
    ("/pinfleet.v1.Pins/Pin", Scope::Pin),
    ("/pinfleet.v1.Pins/Unpin", Scope::Pin),
    ("/pinfleet.v1.Pins/Update", Scope::Pin),
    ("/pinfleet.v1.Pins/Get", Scope::Read),
    ("/pinfleet.v1.Pins/List", Scope::Read),
    ("/pinfleet.v1.Pins/Status", Scope::Read),
    ("/pinfleet.v1.Pins/StatusAll", Scope::Read),
    ("/pinfleet.v1.Pins/Explain", Scope::Pin),
    ("/pinfleet.v1.Pins/Watch", Scope::Read),
    ("/pinfleet.v1.Pins/Recover", Scope::Pin),
    ("/pinfleet.v1.Pins/BulkPin", Scope::Pin),
    ("/pinfleet.v1.Content/Add", Scope::Pin),
    ("/pinfleet.v1.Content/Fetch", Scope::Read),
    ("/pinfleet.v1.Cluster/Status", Scope::Read),
    ("/pinfleet.v1.Cluster/ListPeers", Scope::Read),
    ("/pinfleet.v1.Cluster/CreateJoinToken", Scope::Admin),
    ("/pinfleet.v1.Cluster/RemovePeer", Scope::Admin),
    ("/pinfleet.v1.Cluster/PromotePeer", Scope::Admin),
    ("/pinfleet.v1.Cluster/ListNodes", Scope::Read),
    ("/pinfleet.v1.Cluster/AddNode", Scope::Admin),
    ("/pinfleet.v1.Cluster/RemoveNode", Scope::Admin),
    ("/pinfleet.v1.Cluster/SetNodeState", Scope::Admin),
    ("/pinfleet.v1.Cluster/Node", Scope::Read),
    ("/pinfleet.v1.Cluster/CollectGarbage", Scope::Admin),
    ("/pinfleet.v1.Cluster/UpdateSettings", Scope::Admin),
    ("/pinfleet.v1.Access/Create", Scope::Admin),
    ("/pinfleet.v1.Access/List", Scope::Admin),
    ("/pinfleet.v1.Access/Revoke", Scope::Admin),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Scope::Read),
    ("/grpc.health.v1.Health/Check", Scope::Read),
    ("/grpc.health.v1.Health/Watch", Scope::Read),
];

fn scope_of(path: &str) -> Scope {
    let known = SCOPES.iter().find(|(method, _)| *method == path);
    known.map_or(Scope::Admin, |(_, scope)| *scope)
}

/// Who calls. In the extensions of every request that reaches a handler.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// Nobody was asked: every right.
    Anybody,
    /// The bearer of a credential.
    Known(Arc<Known>),
}

/// A grant, and where to tell what it was overstepped by.
pub(super) struct Known {
    grant: Grant,
    access: Arc<Access>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.grant.fmt(f)
    }
}

/// Who calls. A request without is one that came past the door: refused, whatever it asks for.
pub(super) fn caller<T>(request: &tonic::Request<T>) -> Result<Caller, Status> {
    let unseen = || status(Error::Internal("a call came past the check of credentials".into()));
    request.extensions().get().cloned().ok_or_else(unseen)
}

impl Caller {
    /// Its name, where it has one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Anybody => None,
            Self::Known(known) => known.grant.principal.name.as_deref(),
        }
    }

    /// The namespace to which the caller is confined; none when it may see all.
    pub fn confined_to(&self) -> Option<&Namespace> {
        match self {
            Self::Known(known) if known.grant.scope < Scope::Admin => Some(&known.grant.principal.namespace),
            Self::Known(_) | Self::Anybody => None,
        }
    }

    /// The namespace of a single pin, by the one that the call names: the caller's own when it names none.
    pub fn namespace(&self, named: &str) -> Result<String, Error> {
        match self {
            Self::Anybody => Ok(named.to_owned()),
            Self::Known(known) if named.is_empty() => Ok(known.grant.principal.namespace.to_string()),
            Self::Known(_) => self.list_namespace(named),
        }
    }

    /// The namespace of a list, by the one that the call names. Nothing stands for all, for those who may see all.
    pub fn list_namespace(&self, named: &str) -> Result<String, Error> {
        let (Self::Known(known), Some(own)) = (self, self.confined_to()) else {
            return Ok(named.to_owned());
        };
        if named.is_empty() || named == own.as_str() {
            return Ok(own.to_string());
        }
        let named: String = named.chars().take(63).collect();
        known.access.overstepped(&known.grant, "namespace", &named);
        Err(forbidden(format!(
            "the credential {} ({:?}) is for the namespace {own}, and the call names {named:?}; leave the namespace out, or use a \
             credential of that namespace or one with the scope admin",
            known.grant.id,
            known.grant.principal.name.as_deref().unwrap_or_default()
        )))
    }

    /// Fine when the caller may do everything. `what` is what it asked for.
    pub fn need_admin(&self, what: &str) -> Result<(), Error> {
        match self {
            Self::Known(known) => known.need(Scope::Admin, what).map_err(forbidden),
            Self::Anybody => Ok(()),
        }
    }
}

impl Known {
    /// Fine when it has the scope; else what to say.
    fn need(&self, needed: Scope, what: &str) -> Result<(), String> {
        let Grant {
            id, scope, principal, ..
        } = &self.grant;
        if *scope >= needed {
            return Ok(());
        }
        self.access.overstepped(&self.grant, "scope", what);
        Err(format!(
            "{what} needs the scope {needed}, and the credential {id} ({:?}) has the scope {scope}; use one that has it \
             (`cluster-ctl token create NAME --scope {needed}` makes one)",
            principal.name.as_deref().unwrap_or_default()
        ))
    }
}

fn forbidden(message: String) -> Error {
    Error::Refused(Refusal::new(RefusalKind::Denied, message))
}

/// What the metadata shows.
enum Shown {
    Nothing,
    /// Something that is neither form, or empty.
    Unreadable,
    Bearer(String),
    Basic(String, String),
}

impl Shown {
    fn read(headers: &HeaderMap) -> Self {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Self::Nothing;
        };
        Self::parse(value).unwrap_or(Self::Unreadable)
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
        let plain = String::from_utf8(multibase::Base::Base64Pad.decode(rest).ok()?).ok()?;
        let (user, password) = plain.split_once(':')?;
        let whole = !user.is_empty() && !password.is_empty();
        whole.then(|| Self::Basic(user.to_owned(), password.to_owned()))
    }

    fn presented(&self) -> Option<Presented<'_>> {
        match self {
            Self::Nothing | Self::Unreadable => None,
            Self::Bearer(token) => Some(Presented::Bearer(token)),
            Self::Basic(user, password) => Some(Presented::Basic { user, password }),
        }
    }
}

/// The door: for `layer` of tonic's server.
#[derive(Clone)]
pub struct CallerLayer {
    /// Knows the credentials.
    pub access: Arc<Access>,
    /// Whether calls without a credential stay outside.
    pub required: bool,
}

/// A service behind the door.
#[derive(Clone)]
pub struct Guarded<S> {
    inner: S,
    layer: CallerLayer,
}

impl<S> Layer<S> for CallerLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            layer: self.clone(),
        }
    }
}

impl CallerLayer {
    async fn judge(&self, shown: Shown, path: &str) -> Result<Caller, Status> {
        if matches!(shown, Shown::Unreadable) {
            self.access.unreadable();
            return Err(unauthenticated(
                "UNREADABLE_CREDENTIAL",
                "the metadata `authorization` is neither `Bearer TOKEN` nor `Basic` and base 64 of NAME:PASSWORD"
                    .into(),
            ));
        }
        let grant = self
            .access
            .admit(shown.presented(), self.required)
            .await
            .map_err(denied)?;
        let Some(grant) = grant else {
            return Ok(Caller::Anybody);
        };
        let access = self.access.clone();
        let known = Known { grant, access };
        let method = path.rsplit('/').next().unwrap_or_default();
        known
            .need(scope_of(path), method)
            .map_err(|message| status(forbidden(message)))?;
        Ok(Caller::Known(Arc::new(known)))
    }
}

fn denied(denied: Denied) -> Status {
    match denied {
        Denied::Missing => unauthenticated(
            "NO_CREDENTIAL",
            "this peer asks for a credential and the call shows none; send `authorization: Bearer TOKEN` or Basic with a name \
             and a password"
                .into(),
        ),
        Denied::Wrong => unauthenticated(
            "WRONG_CREDENTIAL",
            "the name or the password is wrong, or the credential has expired or was revoked".into(),
        ),
        Denied::InvalidToken => unauthenticated(
            "WRONG_CREDENTIAL",
            "the token is wrong, or it has expired or was revoked".into(),
        ),
        Denied::Unavailable(reason) => {
            let mut details = ErrorDetails::new();
            details.set_error_info("CREDENTIALS_UNCHECKED", DOMAIN, HashMap::new());
            details.set_retry_info(Some(std::time::Duration::from_secs(1)));
            let message = format!("credentials can't be checked now: {reason}");
            Status::with_error_details(Code::Unavailable, message, details)
        }
    }
}

fn unauthenticated(reason: &str, message: String) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(Code::Unauthenticated, message, details)
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let shown = Shown::read(request.headers());
        let is_open = request.uri().path().starts_with(OPEN);
        if is_open || (matches!(shown, Shown::Nothing) && !self.layer.required) {
            request.extensions_mut().insert(Caller::Anybody);
            return Either::Left(self.inner.call(request));
        }
        // The one that is ready is called, and its clone takes the next call.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let layer = self.layer.clone();
        Either::Right(Box::pin(async move {
            let caller = match layer.judge(shown, request.uri().path()).await {
                Ok(caller) => caller,
                Err(refused) => return Ok(refused.into_http()),
            };
            let over = match &caller {
                Caller::Known(known) => Some(known.access.until_over(&known.grant)),
                Caller::Anybody => None,
            };
            request.extensions_mut().insert(caller);
            let answer = inner.call(request).await?;
            Ok(match over {
                None => answer,
                Some(over) => answer.map(|body| {
                    Body::new(Granted {
                        body,
                        over: Box::pin(over),
                        ended: false,
                    })
                }),
            })
        }))
    }
}

/// The body of an answer; it ends with the grant.
struct Granted {
    body: Body,
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    ended: bool,
}

impl HttpBody for Granted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // Asked first: a stream that always has more would never be found waiting. Where the body has ended already, its
        // last frame is not withheld.
        if !self.body.is_end_stream() && self.over.as_mut().poll(cx).is_ready() {
            self.ended = true;
            let mut trailers = HeaderMap::new();
            let message = "the credential of this call was revoked or has expired";
            let over = unauthenticated("WRONG_CREDENTIAL", message.into());
            return Poll::Ready(Some(over.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;

    use super::*;

    /// A method that is added and not thought of here asks for everything, which is safe; that it is thought of is held here.
    #[test]
    fn every_method_has_its_scope() {
        let descriptors = prost_types::FileDescriptorSet::decode(cluster_proto::PUBLIC_FILE_DESCRIPTOR_SET);
        let mut methods = BTreeSet::new();
        for file in descriptors.expect("of this build").file {
            for service in &file.service {
                for method in &service.method {
                    methods.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
        let ours: BTreeSet<String> = SCOPES.iter().map(|(method, _)| (*method).to_owned()).collect();
        assert_eq!(ours.len(), SCOPES.len(), "one is there twice");
        let foreign: Vec<_> = ours.difference(&methods).collect();
        assert!(foreign.iter().all(|method| method.starts_with("/grpc.")), "{foreign:?}");
        let forgotten: Vec<_> = methods.difference(&ours).collect();
        assert!(forgotten.is_empty(), "{forgotten:?}");
        // What changes more than pins is for admins, and whatever is read is not.
        for (method, scope) in SCOPES {
            if method.starts_with("/pinfleet.v1.Access/") {
                assert_eq!(scope, Scope::Admin, "{method}");
            }
        }
        assert_eq!(scope_of("/pinfleet.v1.Pins/MadeUp"), Scope::Admin);
        assert_eq!(scope_of("/pinfleet.peer.v1.Peers/Fleet"), Scope::Admin);
    }

    #[test]
    fn credentials_in_the_metadata_are_read_or_refused() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().expect("valid"));
            Shown::read(&headers)
        };
        assert!(matches!(Shown::read(&HeaderMap::new()), Shown::Nothing));
        assert!(matches!(read("bearer  a.b.c"), Shown::Bearer(token) if token == "a.b.c"));
        let basic = read("Basic dXNlcjpwYTpzcw==");
        assert!(matches!(basic, Shown::Basic(user, password) if user == "user" && password == "pa:ss"));
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Basic ?",
            "Basic dXNlcg==",
            "Basic OnBhc3M=",
            "Basic dXNlcjo=",
            "Digest a",
        ] {
            assert!(matches!(read(bad), Shown::Unreadable), "{bad}");
        }
    }
}
