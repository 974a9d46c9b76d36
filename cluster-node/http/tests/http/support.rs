//! A server on loopback, and clients that say exactly what they are told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use cluster_http::{
    Authenticate, Denied, ErrorForm, Lasting, Limits, Open, Presented, Principal, Scopes, ServerOptions, serve,
};
use futures::future::{BoxFuture, FutureExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// For what is to happen at once, on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(30);

pub struct Served {
    pub address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Served {
    pub async fn new(router: Router, options: ServerOptions, auth: Arc<dyn Authenticate>) -> Self {
        options.limits.check().expect("limits that can be kept");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (end, ended) = oneshot::channel();
        let task = tokio::spawn(serve(listener, router, options, auth, async {
            let _ = ended.await;
        }));
        Self {
            address,
            end: Some(end),
            task,
        }
    }

    pub async fn rest(router: Router, limits: Limits) -> Self {
        let options = ServerOptions {
            limits,
            ..ServerOptions::new("test", ErrorForm::Rest)
        };
        Self::new(router, options, Arc::new(Open)).await
    }

    pub async fn connect(&self) -> Client {
        Client::new(TcpStream::connect(self.address).await.expect("accepted"))
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, request: &str) -> Answer {
        let mut client = self.connect().await;
        client.say(request).await;
        client.answer().await
    }

    pub fn tell_to_end(&mut self) {
        drop(self.end.take());
    }

    pub async fn ended(mut self) {
        drop(self.end.take());
        timeout(SOON, &mut self.task)
            .await
            .expect("ends soon")
            .expect("no panic");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection, with what was read of it and not used.
pub struct Client<T = TcpStream> {
    pub stream: T,
    read: Vec<u8>,
}

/// An answer as it came, with its chunks put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub version: u8,
    pub status: u16,
    /// Names in lower case; values of a name that repeats in their order.
    pub headers: BTreeMap<String, Vec<String>>,
    pub body: String,
    pub trailers: Vec<String>,
    /// Whether it came to its end.
    pub whole: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|values| values[0].as_str())
    }
}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Client<T> {
    pub fn new(stream: T) -> Self {
        Self {
            stream,
            read: Vec::new(),
        }
    }

    pub async fn say(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.expect("taken");
        self.stream.flush().await.expect("taken");
    }

    /// Reads more; false at the end or after a reset.
    async fn more(&mut self) -> bool {
        let read = timeout(SOON, self.stream.read_buf(&mut self.read))
            .await
            .expect("something soon");
        read.is_ok_and(|len| len > 0)
    }

    /// The next line, without its end.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=at).collect();
                let line = String::from_utf8(line).expect("text");
                return Some(line.trim_end_matches(['\r', '\n']).to_owned());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn bytes(&mut self, len: usize) -> Option<String> {
        while self.read.len() < len {
            if !self.more().await {
                return None;
            }
        }
        Some(String::from_utf8(self.read.drain(..len).collect()).expect("text"))
    }

    /// What comes until the end, and whether that was a proper one.
    pub async fn rest(&mut self) -> (String, bool) {
        loop {
            let read = timeout(SOON, self.stream.read_buf(&mut self.read))
                .await
                .expect("ends soon");
            if !matches!(read, Ok(1..)) {
                let text = String::from_utf8(std::mem::take(&mut self.read)).expect("text");
                return (text, read.is_ok());
            }
        }
    }

    /// The head of an answer; its body is left.
    pub async fn head(&mut self) -> Answer {
        let line = self.line().await.expect("an answer");
        let mut words = line.split(' ');
        let version = words
            .next()
            .and_then(|word| word.strip_prefix("HTTP/1."))
            .expect("HTTP/1");
        let mut answer = Answer {
            version: version.parse().expect("a version"),
            status: words.next().and_then(|word| word.parse().ok()).expect("a status"),
            headers: BTreeMap::new(),
            body: String::new(),
            trailers: Vec::new(),
            whole: true,
        };
        loop {
            let line = self.line().await.expect("a whole head");
            if line.is_empty() {
                return answer;
            }
            let (name, value) = line.split_once(':').expect("a header");
            let values = answer.headers.entry(name.to_ascii_lowercase()).or_default();
            values.push(value.trim().to_owned());
        }
    }

    /// The next chunk; the empty one is the last. `None` if the connection ends before it.
    pub async fn chunk(&mut self) -> Option<String> {
        let len = usize::from_str_radix(&self.line().await?, 16).expect("a size");
        let chunk = self.bytes(len).await?;
        if len > 0 {
            assert_eq!(self.line().await?, "");
        }
        Some(chunk)
    }

    pub async fn trailers(&mut self) -> Vec<String> {
        let mut trailers = Vec::new();
        loop {
            let line = self.line().await.expect("an end of the trailers");
            if line.is_empty() {
                return trailers;
            }
            trailers.push(line);
        }
    }

    pub async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await;
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                match self.chunk().await {
                    Some(chunk) if chunk.is_empty() => break,
                    Some(chunk) => answer.body += &chunk,
                    None => {
                        answer.whole = false;
                        return answer;
                    }
                }
            }
            answer.trailers = self.trailers().await;
        } else if let Some(len) = answer.header("content-length").map(str::to_owned) {
            answer.body = self.bytes(len.parse().expect("a length")).await.expect("a whole body");
        } else if answer.status != 204 {
            (answer.body, answer.whole) = self.rest().await;
        }
        answer
    }
}

/// Knows `user` with the password `pass`, and the token `token`, which may only read.
pub struct Known;

impl Lasting for Known {}

/// The same until it is told that nobody is known any more.
pub struct Until(pub watch::Receiver<bool>);

#[async_trait]
impl Lasting for Until {
    async fn until_over(&self, _: Presented<'_>) -> Result<BoxFuture<'static, ()>, Denied> {
        let mut over = self.0.clone();
        let over = async move {
            over.wait_for(|is_over| *is_over).await.expect("it is told");
        };
        Ok(over.boxed())
    }
}

#[async_trait]
impl Authenticate for Until {
    async fn authenticate(&self, presented: Option<Presented<'_>>) -> Result<Principal, Denied> {
        Known.authenticate(presented).await
    }
}

#[async_trait]
impl Authenticate for Known {
    async fn authenticate(&self, presented: Option<Presented<'_>>) -> Result<Principal, Denied> {
        let (name, scopes) = match presented {
            None => return Err(Denied::Missing),
            Some(Presented::Basic {
                user: "user",
                password: "pass",
            }) => ("user", Scopes::ADMIN),
            Some(Presented::Basic { user: "down", .. }) => return Err(Denied::Unavailable("no leader".to_owned())),
            Some(Presented::Basic { .. }) => return Err(Denied::Wrong),
            Some(Presented::Bearer("token")) => ("ci", Scopes::READ),
            Some(Presented::Bearer(_)) => return Err(Denied::InvalidToken),
        };
        Ok(Principal {
            name: Some(name.to_owned()),
            scopes,
            ..Principal::anybody()
        })
    }
}
