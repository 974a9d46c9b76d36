//! One connection, from its handshake to its end.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::framing::{INSERTED, Refused};
use super::life::{Life, Resting};
use super::service::{Answer, Service};
use super::watched::{Refusal, Watched};
use crate::{Failure, Limits};

/// What hyper holds of a connection in each direction, unless a head may be larger.
const BUFFER_BYTES: usize = 128 * 1024;
/// For the words that end a connection whose request was refused.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(10);

/// What all connections of a server share.
#[derive(Clone)]
pub struct Serving {
    pub answer: Arc<dyn Answer>,
    pub limits: Arc<Limits>,
    pub tls: Option<TlsAcceptor>,
    pub resting: Arc<Resting>,
    /// Changes, or is closed, when the server ends.
    pub ended: watch::Receiver<()>,
}

impl Serving {
    /// Serves a connection until either side ends it.
    pub async fn connection(self, stream: TcpStream, remote: SocketAddr) {
        // Lines of progress are small, and each is to arrive at once.
        let _ = stream.set_nodelay(true);
        let life = Life::new(&self.resting);
        let Some(tls) = &self.tls else {
            return self.speak(stream, remote, life).await;
        };
        // Who says nothing may make room for others even before there is a request to wait for.
        life.rest();
        let mut ended = self.ended.clone();
        let handshake = tokio::select! {
            handshake = timeout(self.limits.head_timeout, tls.accept(stream)) => handshake,
            () = life.told_to_leave() => return,
            _ = ended.changed() => return,
        };
        life.wake();
        match handshake {
            Ok(Ok(stream)) => self.speak(stream, remote, life).await,
            Ok(Err(error)) => tracing::debug!(%remote, %error, "a TLS handshake failed"),
            Err(_) => tracing::debug!(%remote, "a TLS handshake took too long"),
        }
    }

    async fn speak<T: Transport>(mut self, stream: T, remote: SocketAddr, life: Arc<Life>) {
        let head_max = self.limits.head_bytes_max + INSERTED.len();
        let service = Service {
            answer: self.answer.clone(),
            life: life.clone(),
            remote,
            body_idle_timeout: self.limits.body_idle_timeout,
        };
        let stream = Watched::new(stream, &self.limits, life.clone());
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // The stream has an end to each wait, and tells those of a head from those for one.
            .header_read_timeout(None)
            .max_header_size(head_max)
            .max_buf_size(BUFFER_BYTES.max(head_max))
            .serve_connection(TokioIo::new(stream), service);
        let mut pinned = Pin::new(&mut connection);
        let result = tokio::select! {
            result = pinned.as_mut() => result,
            // An error is the sender's end.
            _ = self.ended.changed() => {
                pinned.as_mut().graceful_shutdown();
                pinned.await
            }
            () = life.told_to_leave() => {
                pinned.as_mut().graceful_shutdown();
                pinned.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%remote, %error, "a connection broke");
        }
        let mut stream = connection.into_parts().io.into_inner();
        if life.is_broken() {
            stream.get_ref().reset();
            return;
        }
        if let Some(refusal) = stream.take_refusal() {
            let words = last_words(refusal, &*self.answer, &self.limits);
            let said = async {
                stream.write_all(&words).await?;
                stream.shutdown().await
            };
            // Whoever does not take them goes without.
            tokio::select! {
                _ = timeout(LAST_WORDS_TIMEOUT, said) => {}
                () = life.told_to_leave() => {}
            }
        }
    }
}

/// The whole answer to a head that hyper does not get to see.
fn last_words(refusal: Refusal, answer: &dyn Answer, limits: &Limits) -> Vec<u8> {
    let (status, message) = match refusal {
        Refusal::Large(Refused::Head) => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            format!(
                "request line and headers are longer than {} bytes, which is the most that this server takes",
                limits.head_bytes_max
            ),
        ),
        Refusal::Large(Refused::Target) => (
            StatusCode::URI_TOO_LONG,
            format!(
                "path and query are longer than {} bytes, which is the most that this server takes; ask in several requests",
                limits.target_bytes_max.min(limits.head_bytes_max)
            ),
        ),
        Refusal::Slow => (
            StatusCode::REQUEST_TIMEOUT,
            format!("the head of the request was not there within {:?}", limits.head_timeout),
        ),
    };
    let body = answer.form().body(&Failure::new(status, message));
    let reason = status.canonical_reason().unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        status.as_u16(),
        body.len()
    );
    [head.as_bytes(), &body].concat()
}

/// What a connection runs over.
trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// What is closed next is reset, so that it can't be taken for a proper end.
    fn reset(&self);
}

impl Transport for TcpStream {
    fn reset(&self) {
        if let Err(error) = self.set_zero_linger() {
            tracing::debug!(%error, "a broken answer may look whole");
        }
    }
}

impl Transport for TlsStream<TcpStream> {
    fn reset(&self) {
        self.get_ref().0.reset();
    }
}
