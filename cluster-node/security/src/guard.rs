//! Who may ask what: members everything, strangers one method, removed peers nothing.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use node_core::PeerId;
use tonic::Status;
use tower::{Layer, Service};
use tracing::warn;

use crate::{LogLimit, PeerConnection};

/// What the cluster says of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// Belongs to it.
    Member,
    /// Was removed for good.
    Removed,
    /// Never heard of.
    Stranger,
}

/// The list of members. Asked for every request: it answers from memory.
pub trait Members: Send + Sync + 'static {
    /// What the peer is now.
    fn membership(&self, peer: &PeerId) -> Membership;
}

impl<F: Fn(&PeerId) -> Membership + Send + Sync + 'static> Members for F {
    fn membership(&self, peer: &PeerId) -> Membership {
        self(peer)
    }
}

/// The peer that sent a request. Put into the extensions of every request that passes the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerIdentity(pub PeerId);

/// Wraps services with a [`MemberGuard`]; for `layer` of tonic's server.
#[derive(Clone)]
pub struct MemberGuardLayer {
    rules: Arc<Rules>,
}

/// Refuses requests of peers that are not members with `PERMISSION_DENIED`, and says so in the log.
///
/// Asked per request and not once per connection, so a peer is out as soon as it is removed.
#[derive(Clone)]
pub struct MemberGuard<S> {
    inner: S,
    rules: Arc<Rules>,
}

struct Rules {
    members: Arc<dyn Members>,
    open_paths: Vec<String>,
    log_limit: LogLimit,
}

impl MemberGuardLayer {
    /// Strangers reach `open_paths`, gRPC paths such as `/package.Service/Method`, and nothing else.
    pub fn new(members: Arc<dyn Members>, open_paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            rules: Arc::new(Rules {
                members,
                open_paths: open_paths.into_iter().map(Into::into).collect(),
                log_limit: LogLimit::default(),
            }),
        }
    }
}

impl<S> Layer<S> for MemberGuardLayer {
    type Service = MemberGuard<S>;

    fn layer(&self, inner: S) -> MemberGuard<S> {
        MemberGuard {
            inner,
            rules: self.rules.clone(),
        }
    }
}

impl Rules {
    fn check(&self, connection: Option<PeerConnection>, path: &str) -> Result<PeerId, Status> {
        let Some(PeerConnection { peer, remote }) = connection else {
            // Only possible when the server was put together wrongly; then nobody may pass.
            return Err(Status::permission_denied("the connection proves no peer"));
        };
        let (reason, answer) = match self.members.membership(&peer) {
            Membership::Member => return Ok(peer),
            Membership::Stranger if self.open_paths.iter().any(|open| open == path) => return Ok(peer),
            Membership::Stranger => (
                "stranger",
                format!(
                    "peer {peer} is not a member of this cluster; it joins with a token of `cluster-ctl peer join-token`"
                ),
            ),
            Membership::Removed => (
                "removed",
                format!("peer {peer} was removed from this cluster for good; begin with a new peer in an empty folder"),
            ),
        };
        if let Some(suppressed) = self.log_limit.allow() {
            warn!(%peer, %remote, reason, path, suppressed, "a request was refused");
        }
        Err(Status::permission_denied(answer))
    }
}

impl<S, In, Out> Service<Request<In>> for MemberGuard<S>
where
    S: Service<Request<In>, Response = Response<Out>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    Out: Default + Send + 'static,
{
    type Response = Response<Out>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Out>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<In>) -> Self::Future {
        let connection = request.extensions().get::<PeerConnection>().copied();
        match self.rules.check(connection, request.uri().path()) {
            Ok(peer) => {
                request.extensions_mut().insert(PeerIdentity(peer));
                Box::pin(self.inner.call(request))
            }
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        }
    }
}
