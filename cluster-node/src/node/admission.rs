//! Lets in what clients ask: as much as may be open at a time, and nothing any more once the peer stops.
//!
//! ```text
//! stop_taking ─► new requests and watches: STOPPING ─► calls end ─► (the lead is handed over) ─► streams end ─► close
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::api::status;
use crate::service::Error;

/// Whether this peer can take work is asked before everything, and answered until the end.
const HEALTH: &str = "/grpc.health.v1.Health/";

/// Streams that end when their client has had enough, and would hold up a stop for ever.
const ENDLESS: [&str; 2] = [
    "/pinfleet.v1.Pins/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];

/// Streams that come to an end, however long that may take.
const STREAMS: [&str; 3] = [
    "/pinfleet.v1.Pins/List",
    "/pinfleet.v1.Pins/StatusAll",
    "/pinfleet.v1.Pins/BulkPin",
];

/// The door of the client API. Clones are the same door.
#[derive(Clone)]
pub struct Admission {
    places: Arc<Semaphore>,
    stopping: CancellationToken,
    closing: CancellationToken,
    calls: TaskTracker,
    streams: TaskTracker,
}

impl Admission {
    /// Open, for so many requests and streams at a time, over all connections.
    pub fn new(open_max: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(open_max.min(Semaphore::MAX_PERMITS))),
            stopping: CancellationToken::new(),
            closing: CancellationToken::new(),
            calls: TaskTracker::new(),
            streams: TaskTracker::new(),
        }
    }

    /// From now on new requests are refused, so that their clients go to another peer. Watches end.
    pub fn stop_taking(&self) {
        self.stopping.cancel();
        self.calls.close();
        self.streams.close();
    }

    /// Waits for the calls that are open.
    pub async fn calls_ended(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.calls.wait()).await.is_ok()
    }

    /// Waits for the streams that are open and come to an end by themselves.
    pub async fn streams_ended(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.streams.wait()).await.is_ok()
    }

    /// Ends all that is still open.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Whether a request may come in. The error is the answer.
    fn enter(&self, path: &str) -> Result<Ticket, Error> {
        let kept = |closes: &CancellationToken, tracker: Option<&TaskTracker>, place| Ticket {
            _place: place,
            _open: tracker.map(TaskTracker::token),
            closes: Box::pin(closes.clone().cancelled_owned()),
        };
        if path.starts_with(HEALTH) {
            return Ok(kept(&self.closing, None, None));
        }
        if self.stopping.is_cancelled() {
            return Err(Error::Stopping);
        }
        let place = self.places.clone().try_acquire_owned();
        let place = Some(place.map_err(|_| Error::Overloaded {
            // Most calls are over in milliseconds; a place that a stream holds is not free sooner either way.
            retry_after: Duration::from_millis(500),
        })?);
        Ok(if ENDLESS.contains(&path) {
            kept(&self.stopping, None, place)
        } else if STREAMS.contains(&path) {
            kept(&self.closing, Some(&self.streams), place)
        } else {
            kept(&self.closing, Some(&self.calls), place)
        })
    }
}

/// What an open request holds.
struct Ticket {
    _place: Option<OwnedSemaphorePermit>,
    _open: Option<TaskTrackerToken>,
    /// When it is ended by this peer.
    closes: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S> Layer<S> for Admission {
    type Service = Admitted<S>;

    fn layer(&self, inner: S) -> Admitted<S> {
        Admitted {
            inner,
            admission: self.clone(),
        }
    }
}

/// A service behind the door.
#[derive(Clone)]
pub struct Admitted<S> {
    inner: S,
    admission: Admission,
}

impl<S> Service<Request<Body>> for Admitted<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut ticket = match self.admission.enter(request.uri().path()) {
            Ok(ticket) => ticket,
            Err(error) => return Box::pin(std::future::ready(Ok(status(error).into_http()))),
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = tokio::select! {
                biased;
                answer = answer => answer?,
                () = &mut ticket.closes => {
                    let unknown = Error::Unknown("this peer stopped before it had the answer".into());
                    return Ok(status(unknown).into_http());
                }
            };
            Ok(answer.map(|body| {
                Body::new(Held {
                    body,
                    ticket,
                    ended: false,
                })
            }))
        })
    }
}

/// The body of an answer; with its end the request is no longer open.
struct Held {
    body: Body,
    ticket: Ticket,
    ended: bool,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_pending() && self.ticket.closes.as_mut().poll(cx).is_ready() {
            self.ended = true;
            let mut trailers = HeaderMap::new();
            return Poll::Ready(Some(
                status(Error::Stopping)
                    .add_header(&mut trailers)
                    .map(|()| Frame::trailers(trailers)),
            ));
        }
        frame
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
    use cluster_proto::v1::pins_client::PinsClient;
    use cluster_proto::v1::{StatusRequest, WatchRequest};
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::transport::{Endpoint, Server};
    use tonic::{Code, Status};
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_types::StatusExt;

    use super::*;

    /// Answers every call never, and every other request with a stream that never ends.
    #[derive(Clone)]
    struct Silent;

    impl tonic::server::NamedService for Silent {
        const NAME: &'static str = "pinfleet.v1.Pins";
    }

    impl Service<Request<Body>> for Silent {
        type Response = Response<Body>;
        type Error = std::convert::Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Self::Error>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            let is_stream = request.uri().path().ends_with("Watch");
            Box::pin(async move {
                if !is_stream {
                    std::future::pending::<()>().await;
                }
                let answer = Response::builder().header("content-type", "application/grpc");
                Ok(answer.body(Body::new(Endless)).expect("it is valid"))
            })
        }
    }

    struct Endless;

    impl HttpBody for Endless {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Pending
        }
    }

    async fn serve(admission: &Admission) -> tonic::transport::Channel {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let (_reporter, health) = tonic_health::server::health_reporter();
        let server = Server::builder()
            .layer(admission.clone())
            .add_service(health)
            .add_service(Silent);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        endpoint.connect().await.expect("it listens")
    }

    fn reason(status: &Status) -> String {
        status
            .get_error_details()
            .error_info()
            .expect("it has one")
            .reason
            .clone()
    }

    #[tokio::test]
    async fn more_than_may_be_open_is_told_to_come_again_and_health_is_answered() {
        let admission = Admission::new(1);
        let channel = serve(&admission).await;
        let mut pins = PinsClient::new(channel.clone());
        let watch = pins.watch(WatchRequest::default()).await.expect("there is room");
        let refused = pins.watch(WatchRequest::default()).await.expect_err("there is no room");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(reason(&refused), "OVERLOADED");
        assert!(refused.get_error_details().retry_info().is_some());
        HealthClient::new(channel)
            .check(HealthCheckRequest::default())
            .await
            .expect("it is always answered");
        drop(watch);
        // The server learns of the dropped stream a moment later.
        tokio::time::timeout(Duration::from_secs(10), async {
            while pins.watch(WatchRequest::default()).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the place is free again");
    }

    #[tokio::test]
    async fn a_stop_ends_watches_at_once_and_calls_when_it_must() {
        let admission = Admission::new(8);
        let channel = serve(&admission).await;
        let mut pins = PinsClient::new(channel.clone());
        let mut watch = pins
            .watch(WatchRequest::default())
            .await
            .expect("there is room")
            .into_inner();
        let call = tokio::spawn({
            let mut pins = pins.clone();
            async move { pins.status(StatusRequest::default()).await }
        });
        tokio::time::timeout(Duration::from_secs(10), async {
            while admission.calls.is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the call comes in");

        admission.stop_taking();
        let ended = watch.message().await.expect_err("the peer stops");
        assert_eq!(
            (ended.code(), reason(&ended)),
            (Code::Unavailable, "STOPPING".to_owned())
        );
        let refused = pins.status(StatusRequest::default()).await.expect_err("the peer stops");
        assert_eq!(
            (refused.code(), reason(&refused)),
            (Code::Unavailable, "STOPPING".to_owned())
        );
        assert!(admission.streams_ended(Duration::from_secs(10)).await);
        assert!(
            !admission.calls_ended(Duration::from_millis(20)).await,
            "one is still open"
        );

        admission.close();
        assert!(admission.calls_ended(Duration::from_secs(10)).await);
        // It may have been carried out: that it was not is more than this peer knows.
        let cut = call.await.expect("no panic").expect_err("it was cut");
        assert_eq!(
            (cut.code(), reason(&cut)),
            (Code::Unknown, "OUTCOME_UNKNOWN".to_owned())
        );
    }
}
