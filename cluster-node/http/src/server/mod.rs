//! Serving a router on a listener.

mod access;
mod connection;
mod framing;
mod lasting;
mod life;
mod options;
mod pipeline;
mod service;
mod watched;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderValue, StatusCode, header};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use self::connection::Serving;
pub(crate) use self::life::Life;
use self::life::Resting;
pub use self::options::{Observer, Paths, ServerOptions};
use self::pipeline::Pipeline;
use self::service::Answer;
use crate::{Authenticate, ErrorForm, Failure, Limits};

/// After an accept that failed, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For a connection that was told to make room: it has nothing to do, and is gone at once.
const ROOM_WAIT: Duration = Duration::from_millis(200);
/// Connections beyond the bound that are told so; further ones wait in the system's queue.
const TURNED_AWAY_MAX: usize = 64;

/// Answers connections over HTTP/1.1 until `end` is done. What is being answered then gets [`Limits::grace`], and is cut off
/// after it. HTTP/2 is not spoken: many requests on one connection would pass by the bounds.
///
/// A request ends with the credential that it came with, if that is revoked or expires before it is answered: before the head
/// of the answer with 401, and behind it by breaking the answer off (see [`Lasting`](crate::Lasting)).
///
/// Each request goes this way: log, credentials (so a 401 has no CORS headers), CORS, [`Paths`], the router. Whatever has no
/// route is 404, and a method that a path does not have is 405 with `Allow`, both in the server's [`ErrorForm`]. Each request
/// has a [`Principal`](crate::Principal) and a `ConnectInfo<SocketAddr>` among its extensions.
///
/// Answers with a `Trailer` header send their trailers whether or not the client said `TE: trailers`. Where that can't be (a
/// client of HTTP/1.0, or a request that is not understood on the way), a stream that would end with an error in
/// [`STREAM_ERROR`](crate::STREAM_ERROR) is broken off instead.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: ServerOptions,
    auth: Arc<dyn Authenticate>,
    end: impl Future<Output = ()> + Send,
) {
    let limits = options.limits.clone();
    let tls = options.tls.clone().map(TlsAcceptor::from);
    let answer = Arc::new(Pipeline::new(router, options, auth));
    run(listener, answer, limits, tls, end).await;
}

/// Answers connections as [`serve`] does, by a router and nothing else: it sees each request as it came, and each answer goes
/// out as it is.
pub async fn serve_router(
    listener: TcpListener,
    name: &'static str,
    router: Router,
    limits: Limits,
    end: impl Future<Output = ()> + Send,
) {
    run(listener, Arc::new(Bare { name, router }), limits, None, end).await;
}

async fn run(
    listener: TcpListener,
    answer: Arc<dyn Answer>,
    limits: Limits,
    tls: Option<TlsAcceptor>,
    end: impl Future<Output = ()> + Send,
) {
    let mut end = pin!(end);
    let (ending, ended) = watch::channel(());
    let grace = limits.grace;
    let places = Places::new(&limits);
    let serving = Serving {
        answer: answer.clone(),
        limits: Arc::new(limits),
        tls,
        resting: places.resting.clone(),
        ended,
    };
    let turning_away = Serving {
        answer: Arc::new(Full(answer.clone())),
        resting: Arc::default(),
        ..serving.clone()
    };
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = &mut end => break,
            accepted = places.accept(&listener) => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, remote, place)) => {
                let serving = if place.served {
                    serving.clone()
                } else {
                    turning_away.clone()
                };
                connections.spawn(async move {
                    serving.connection(stream, remote).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(server = answer.name(), %error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    drop(ending);
    // Those that are left are cut off when the set is dropped.
    let _ = timeout(grace, async { while connections.join_next().await.is_some() {} }).await;
}

/// The place of a connection.
struct Place {
    /// Among those that are served; the others are turned away.
    served: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

/// The places for connections.
struct Places {
    places: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
    resting: Arc<Resting>,
}

impl Places {
    fn new(limits: &Limits) -> Self {
        let places = limits.connections_max.min(Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(places)),
            turned_away: Arc::new(Semaphore::new(TURNED_AWAY_MAX)),
            resting: Arc::default(),
        }
    }

    async fn accept(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr, Place)> {
        let (stream, remote) = listener.accept().await?;
        Ok((stream, remote, self.place().await))
    }

    async fn place(&self) -> Place {
        // The semaphores are never closed, so waiting for a permit ends with one.
        let place = |served, permit: Result<_, _>| Place {
            served,
            _permit: permit.ok(),
        };
        if let Ok(permit) = self.places.clone().try_acquire_owned() {
            return place(true, Ok(permit));
        }
        if self.resting.reclaim()
            && let Ok(permit) = timeout(ROOM_WAIT, self.places.clone().acquire_owned()).await
        {
            return place(true, permit);
        }
        if let Ok(permit) = self.turned_away.clone().try_acquire_owned() {
            return place(false, Ok(permit));
        }
        tokio::select! {
            permit = self.places.clone().acquire_owned() => place(true, permit),
            permit = self.turned_away.clone().acquire_owned() => place(false, permit),
        }
    }
}

/// A router and nothing else.
struct Bare {
    name: &'static str,
    router: Router,
}

impl Answer for Bare {
    fn answer(self: Arc<Self>, request: Request) -> BoxFuture<'static, Response> {
        let answered = self.router.clone().oneshot(request);
        answered
            .map(|answer| answer.unwrap_or_else(|never| match never {}))
            .boxed()
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn form(&self) -> ErrorForm {
        ErrorForm::default()
    }
}

/// Tells everybody that there are too many of them.
struct Full(Arc<dyn Answer>);

impl Answer for Full {
    fn answer(self: Arc<Self>, _: Request) -> BoxFuture<'static, Response> {
        let failure = Failure::busy(
            "this server has as many connections as it takes; try again",
            Duration::from_secs(1),
        );
        let mut response = failure.respond(self.0.form());
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        futures::future::ready(response).boxed()
    }

    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn form(&self) -> ErrorForm {
        self.0.form()
    }

    fn answered(&self, status: StatusCode, took: Duration) {
        self.0.answered(status, took);
    }
}
