//! Who may ask what: members everything, strangers one method, removed peers nothing.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use node_core::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::warn;

use crate::{LogLimit, PeerConnection};

/// Largest request of a peer that is not a member: what it has to say fits into a fraction of it, and nothing larger is
/// held in memory for somebody who has not shown a token yet.
const STRANGER_BODY_BYTES_MAX: usize = 64 << 10;

/// Requests of peers that are not members, at the same time. With the size of each, it bounds what they can make this
/// peer hold, however many streams they open.
const STRANGER_CALLS_MAX: usize = 16;

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

/// Knows whom to ask about a peer that this one has never heard of: a member that was away does not know who joined
/// meanwhile, and must not refuse a leader for it.
pub trait Vouchers: Send + Sync + 'static {
    /// Whether members say that the peer is one of them. Bounds by itself how often it asks, and never asks the stranger.
    fn vouch(&self, peer: PeerId) -> BoxFuture<bool>;
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

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
    /// Who to ask about strangers, and the beginning of the paths for which it is worth it.
    vouchers: Option<(Arc<dyn Vouchers>, &'static str)>,
    stranger_calls: Arc<Semaphore>,
    log_limit: LogLimit,
}

/// What is to become of a request.
enum Verdict {
    /// A member's.
    Pass(PeerId),
    /// A stranger's, to a path that is open to strangers.
    Open(PeerId, OwnedSemaphorePermit),
    /// A stranger's, unless a member vouches for it.
    Ask(PeerConnection, Arc<dyn Vouchers>),
    Refuse(Status),
}

impl MemberGuardLayer {
    /// Strangers reach `open_paths`, gRPC paths such as `/package.Service/Method`, and nothing else.
    pub fn new(members: Arc<dyn Members>, open_paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            rules: Arc::new(Rules {
                members,
                open_paths: open_paths.into_iter().map(Into::into).collect(),
                vouchers: None,
                stranger_calls: Arc::new(Semaphore::new(STRANGER_CALLS_MAX)),
                log_limit: LogLimit::default(),
            }),
        }
    }

    /// A stranger also passes on paths that begin with `paths`, when `vouchers` say that it is a member.
    pub fn vouched(self, vouchers: Arc<dyn Vouchers>, paths: &'static str) -> Self {
        let rules = Rules {
            members: self.rules.members.clone(),
            open_paths: self.rules.open_paths.clone(),
            vouchers: Some((vouchers, paths)),
            stranger_calls: self.rules.stranger_calls.clone(),
            log_limit: LogLimit::default(),
        };
        Self { rules: Arc::new(rules) }
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
    fn check(&self, connection: Option<PeerConnection>, path: &str) -> Verdict {
        let Some(connection) = connection else {
            // Only possible when the server was put together wrongly; then nobody may pass.
            return Verdict::Refuse(Status::permission_denied("the connection proves no peer"));
        };
        let peer = connection.peer;
        match self.members.membership(&peer) {
            Membership::Member => Verdict::Pass(peer),
            Membership::Stranger if self.open_paths.iter().any(|open| open == path) => {
                match self.stranger_calls.clone().try_acquire_owned() {
                    Ok(place) => Verdict::Open(peer, place),
                    Err(_) => Verdict::Refuse(Status::unavailable(
                        "too many peers that are not members ask at the same time; try again in a moment",
                    )),
                }
            }
            Membership::Stranger => match &self.vouchers {
                Some((vouchers, paths)) if path.starts_with(paths) => Verdict::Ask(connection, vouchers.clone()),
                _ => Verdict::Refuse(self.stranger(connection, path)),
            },
            Membership::Removed => {
                self.log(connection, path, "removed");
                Verdict::Refuse(Status::permission_denied(format!(
                    "peer {peer} was removed from this cluster for good; begin with a new peer in an empty folder"
                )))
            }
        }
    }

    fn stranger(&self, connection: PeerConnection, path: &str) -> Status {
        self.log(connection, path, "stranger");
        Status::permission_denied(format!(
            "peer {} is not a member of this cluster; it joins with a token of `cluster-ctl peer join-token`",
            connection.peer
        ))
    }

    fn log(&self, PeerConnection { peer, remote }: PeerConnection, path: &str, reason: &str) {
        if let Some(suppressed) = self.log_limit.allow() {
            // The path is the caller's own text, as long as a header may be.
            let path: String = path.chars().take(128).collect();
            warn!(%peer, %remote, reason, path, suppressed, "a request was refused");
        }
    }
}

impl<S, Out> Service<Request<Body>> for MemberGuard<S>
where
    S: Service<Request<Body>, Response = Response<Out>> + Clone + Send + 'static,
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

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let connection = request.extensions().get::<PeerConnection>().copied();
        match self.rules.check(connection, request.uri().path()) {
            Verdict::Pass(peer) => {
                request.extensions_mut().insert(PeerIdentity(peer));
                Box::pin(self.inner.call(request))
            }
            Verdict::Open(peer, place) => {
                request.extensions_mut().insert(PeerIdentity(peer));
                let answer = self.inner.call(request.map(|body| Body::new(Limited::new(body))));
                Box::pin(async move {
                    let answer = answer.await;
                    drop(place);
                    answer
                })
            }
            Verdict::Ask(connection, vouchers) => {
                // The one that was polled ready answers; its clone stays for the next request.
                let spare = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, spare);
                let rules = self.rules.clone();
                Box::pin(async move {
                    if vouchers.vouch(connection.peer).await {
                        request.extensions_mut().insert(PeerIdentity(connection.peer));
                        return inner.call(request).await;
                    }
                    Ok(rules.stranger(connection, request.uri().path()).into_http())
                })
            }
            Verdict::Refuse(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        }
    }
}

/// A body that ends with an error where it gets longer than a stranger's may be.
struct Limited {
    body: Body,
    left: usize,
}

impl Limited {
    fn new(body: Body) -> Self {
        Self {
            body,
            left: STRANGER_BODY_BYTES_MAX,
        }
    }
}

impl HttpBody for Limited {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let bytes = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => {
                return Poll::Ready(Some(Err(Status::resource_exhausted(format!(
                    "a peer that is not a member may send {STRANGER_BODY_BYTES_MAX} bytes"
                )))));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
