//! `/metrics`, `/livez` and `/readyz`.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::health::Reason;
use super::{Health, Metrics};

/// Connections at the same time; more wait in the system's backlog. A handful of scrapers and probes come by.
const CONNECTIONS_MAX: usize = 64;
/// For one connection, which carries one request.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after the system could not give a connection, as when all file descriptors are in use.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers metrics and health until it is stopped or dropped.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Why it could not begin.
#[derive(Debug, thiserror::Error)]
#[error("telemetry.http_listen = \"{address}\": {source}")]
pub struct HttpServerError {
    address: SocketAddr,
    source: io::Error,
}

#[derive(Clone)]
struct Shared {
    metrics: Metrics,
    health: Health,
}

#[derive(Serialize)]
struct Answer {
    ok: bool,
    reasons: Vec<Reason>,
}

impl HttpServer {
    /// Binds and begins to answer; port 0 takes a free one.
    pub async fn start(address: SocketAddr, metrics: Metrics, health: Health) -> Result<Self, HttpServerError> {
        let failed = |source| HttpServerError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let router = Router::new()
            .route("/metrics", get(serve_metrics))
            .route("/livez", get(live))
            .route("/readyz", get(ready))
            .with_state(Shared { metrics, health });
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(listener, router, stop.clone()));
        Ok(Self { address, stop, task })
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests, and waits so long for those that are open.
    pub async fn stop(mut self, grace: Duration) {
        self.stop.cancel();
        // Beyond the grace the task is aborted by the drop.
        let _ = tokio::time::timeout(grace, &mut self.task).await;
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = async {
                let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
                listener.accept().await.map(|(tcp, _)| (tcp, place))
            } => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((tcp, place)) => {
                let router = router.clone();
                connections.spawn(async move {
                    answer(tcp, router).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "a connection for metrics or health could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn answer(tcp: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        // Probes come seldom: a connection kept open would only take a place.
        .keep_alive(false)
        .serve_connection(TokioIo::new(tcp), TowerToHyperService::new(router));
    // What goes wrong on one connection concerns its caller only.
    let _ = tokio::time::timeout(CONNECTION_TIME_MAX, connection).await;
}

async fn serve_metrics(State(shared): State<Shared>) -> Result<Response, Infallible> {
    Ok(match shared.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    })
}

async fn live(State(shared): State<Shared>) -> Response {
    health_answer(shared.health.failure().into_iter().collect())
}

async fn ready(State(shared): State<Shared>) -> Response {
    health_answer(shared.health.reasons())
}

fn health_answer(reasons: Vec<Reason>) -> Response {
    let ok = reasons.is_empty();
    let code = if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, axum::Json(Answer { ok, reasons })).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    async fn start() -> (HttpServer, Metrics, Health) {
        let (metrics, health) = (Metrics::new("a", "1"), Health::new());
        let any = "127.0.0.1:0".parse().unwrap();
        let server = HttpServer::start(any, metrics.clone(), health.clone()).await.unwrap();
        (server, metrics, health)
    }

    #[tokio::test]
    async fn metrics_are_answered() {
        let (server, metrics, _) = start().await;
        metrics.snapshots(0, 1);
        let (code, body) = get(server.address(), "/metrics").await;
        assert_eq!(code, 200);
        assert!(body.contains("pinfleet_raft_snapshots_built_total 1"));
        assert!(body.contains("# EOF"));
        assert_eq!(get(server.address(), "/nothing").await.0, 404);
    }

    #[tokio::test]
    async fn health_is_told_with_reasons() {
        let (server, _, health) = start().await;
        let leader = health.condition("raft_leader");
        leader.not_ready("no leader is known");
        let (code, body) = get(server.address(), "/readyz").await;
        assert_eq!(code, 503);
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["ok"], false);
        assert_eq!(body["reasons"][0]["condition"], "raft_leader");
        assert_eq!(body["reasons"][0]["reason"], "no leader is known");
        assert_eq!(get(server.address(), "/livez").await.0, 200);

        leader.ready();
        assert_eq!(
            get(server.address(), "/readyz").await,
            (200, r#"{"ok":true,"reasons":[]}"#.to_owned())
        );

        health.fail("raft", "the disk is gone");
        assert_eq!(get(server.address(), "/readyz").await.0, 503);
        let (code, body) = get(server.address(), "/livez").await;
        assert_eq!(code, 503);
        assert!(body.contains("the disk is gone"));
    }

    #[tokio::test]
    async fn silent_connections_block_nobody_and_stopping_ends() {
        let (server, _, _) = start().await;
        let address = server.address();
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX / 2 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        assert_eq!(get(address, "/livez").await.0, 200);
        server.stop(Duration::from_millis(100)).await;
        for mut stream in silent {
            let mut byte = [0];
            assert!(matches!(stream.read(&mut byte).await, Ok(0) | Err(_)));
        }
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_taken_address_is_named() {
        let (server, metrics, health) = start().await;
        let error = HttpServer::start(server.address(), metrics, health).await.unwrap_err();
        assert!(error.to_string().starts_with("telemetry.http_listen = "), "{error}");
    }
}
