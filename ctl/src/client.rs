//! The way to the cluster: endpoints in order, deadlines, and retries that are safe.
//!
//! Any peer takes any request, so an endpoint that does not answer is passed over. Every write carries a request ID or
//! is idempotent by its nature, so it can be sent again to another peer when its answer got lost.

use std::error::Error as _;
use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::exit::{Exit, Failure, human, is_driver_silent, is_outcome_unknown, retry_delay};
use crate::output::Talk;
use crate::secret::Bearer;

/// A peer on the same continent connects in well under a second; longer means that it is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A stream may be silent for long; pings tell a quiet peer from a dead one.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// First pause after a peer said that it can't now, when it named none itself. Doubles up to the maximum.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Answers are read in chunks of up to 1,000 items, each of which may carry 32 KiB of metadata.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Bytes of one stream, and of all, that may wait to be read. Far apart on purpose: h2 breaks a connection off as hostile when
/// too many small messages wait, and what it takes is half of the second one, at 256 bytes each.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;

/// What a call does, which decides what is said when its outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Changes nothing.
    Read,
    /// Changes something, and can be repeated.
    Write,
    /// Opens a stream: the deadline covers the opening only.
    Stream,
}

/// A connection that shows the token with every call.
pub type Wire = InterceptedService<Channel, Bearer>;

/// Endpoints of the cluster, tried in order.
pub struct Client {
    targets: Vec<Target>,
    bearer: Bearer,
    /// The one that answered last: the next call starts there.
    current: AtomicUsize,
    timeout: Duration,
    talk: Talk,
}

struct Target {
    address: String,
    endpoint: Endpoint,
    channel: Mutex<Option<Channel>>,
}

/// What is to be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The connection broke or never was: another peer may answer.
    Broken,
    /// The peer can't now: wait, then try again.
    Busy,
    /// The time was up.
    Late,
    /// The peer can't say whether it was carried out. Under the same request ID it is safe to ask again.
    Uncertain,
    /// An answer that will not change by asking again.
    Final,
}

/// Sorts an error.
pub fn trouble(status: &Status) -> Trouble {
    // A status made on this side of the wire has a source; one that a peer sent has none.
    if let Some(source) = status.source() {
        if is_timeout(source) || status.code() == Code::DeadlineExceeded {
            return Trouble::Late;
        }
        return match status.code() {
            // A message that is too large or can't be decoded is no better on another peer.
            Code::OutOfRange | Code::ResourceExhausted => Trouble::Final,
            _ => Trouble::Broken,
        };
    }
    match status.code() {
        Code::Unknown if is_outcome_unknown(status) => Trouble::Uncertain,
        // What only one peer can answer, no other peer and no second try will.
        Code::Unavailable if is_driver_silent(status) => Trouble::Final,
        Code::Unavailable | Code::ResourceExhausted => Trouble::Busy,
        Code::DeadlineExceeded => Trouble::Late,
        Code::Cancelled if status.message() == "Timeout expired" => Trouble::Late,
        _ => Trouble::Final,
    }
}

fn is_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<tonic::TimeoutExpired>() || error.source().is_some_and(is_timeout)
}

/// Reads an endpoint: `http://host:port`, `host:port`, `/ip4/…/tcp/…`, or the path of a socket as `unix:/…` or `/unix/…`.
pub fn parse_endpoint(text: &str) -> Result<String, String> {
    let form =
        "use http://HOST:PORT, HOST:PORT, a multiaddr such as /ip4/127.0.0.1/tcp/9098, or unix:PATH for a socket";
    let text = text.trim();
    if text.starts_with("https://") {
        return Err("the API has no TLS of its own; use http:// over loopback, a tunnel or a trusted network".into());
    }
    if let Some(path) = text.strip_prefix("unix:").or(text.strip_prefix("/unix")) {
        let path = path.strip_prefix("//").unwrap_or(path);
        return match path {
            "" | "/" => Err(form.into()),
            path => Ok(format!("unix:{path}")),
        };
    }
    let authority = if let Some(rest) = text.strip_prefix('/') {
        let parts: Vec<&str> = rest.trim_end_matches('/').split('/').collect();
        match parts.as_slice() {
            ["ip4" | "dns" | "dns4" | "dns6", host, "tcp", port] => format!("{host}:{port}"),
            ["ip6", host, "tcp", port] => format!("[{host}]:{port}"),
            _ => return Err(form.into()),
        }
    } else {
        text.strip_prefix("http://")
            .unwrap_or(text)
            .trim_end_matches('/')
            .to_owned()
    };
    let (host, port) = authority.rsplit_once(':').ok_or(form)?;
    let host_ok = !host.is_empty() && !host.contains(['/', ' ', '@', '?', '#']);
    if !host_ok || port.parse::<u16>().is_err() {
        return Err(form.into());
    }
    let address = format!("http://{authority}");
    Endpoint::from_shared(address.clone()).map_err(|_| form)?;
    Ok(address)
}

impl Client {
    /// A client of endpoints that [`parse_endpoint`] made. Connects on first use.
    pub fn new(addresses: &[String], bearer: Bearer, timeout: Duration, talk: Talk) -> Result<Self, Failure> {
        let mut targets = Vec::new();
        for address in addresses {
            let endpoint = Endpoint::from_shared(address.clone())
                .map_err(|e| Failure::usage(format!("--api {address:?}: {e}")))?
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW);
            targets.push(Target {
                address: address.clone(),
                endpoint,
                channel: Mutex::new(None),
            });
        }
        if targets.is_empty() {
            return Err(Failure::usage("--api names no endpoint"));
        }
        Ok(Self {
            targets,
            bearer,
            current: AtomicUsize::new(0),
            timeout,
            talk,
        })
    }

    /// How long a single call may take, and how long a stream may be silent while it should not be.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How many peers are known.
    pub fn endpoints(&self) -> usize {
        self.targets.len()
    }

    /// The address that the next call goes to first.
    pub fn address(&self) -> &str {
        &self.targets[self.index()].address
    }

    fn index(&self) -> usize {
        self.current.load(Ordering::Relaxed) % self.targets.len()
    }

    /// Gives the current endpoint up: the next call starts at the one behind it.
    pub fn move_on(&self) {
        let index = self.index();
        self.forget(index);
        self.current.store(index + 1, Ordering::Relaxed);
    }

    fn forget(&self, index: usize) {
        if let Ok(mut channel) = self.targets[index].channel.lock() {
            *channel = None;
        }
    }

    /// A connection, and whether it is an older one that may be dead by now.
    async fn channel(&self, index: usize, within: Duration) -> Result<(Channel, bool), String> {
        let target = &self.targets[index];
        if let Some(channel) = target.channel.lock().ok().and_then(|slot| slot.clone()) {
            return Ok((channel, true));
        }
        let connected = timeout(within.min(CONNECT_TIMEOUT), target.endpoint.connect()).await;
        let channel = match connected {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(innermost(&error)),
            Err(_) => return Err(format!("no connection within {}", human(within.min(CONNECT_TIMEOUT)))),
        };
        if let Ok(mut slot) = target.channel.lock() {
            *slot = Some(channel.clone());
        }
        Ok((channel, false))
    }

    /// Carries out one call: at the endpoint that answered last, then at the others, until one answers or the time is
    /// up. `send` is called once per try, with the same request.
    pub async fn call<Req, Res, F, Fut>(&self, kind: Kind, request: Req, send: F) -> Result<Res, Failure>
    where
        Req: Clone,
        F: Fn(Wire, Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        let deadline = Instant::now() + self.timeout;
        let count = self.targets.len();
        let mut index = self.index();
        let mut pause = PAUSE_MIN;
        // Endpoints in a row that gave no answer, and why.
        let mut silent: Vec<String> = Vec::new();
        let mut some_late = false;
        // An earlier try may have been carried out although its answer was lost.
        let mut uncertain = false;
        loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            // A hung peer must not use up the time in which another one could answer.
            let share = if silent.len() + 1 < count {
                (remaining / 2).max(Duration::from_millis(100))
            } else {
                remaining
            };
            let why = match self.channel(index, share).await {
                Err(why) => why,
                Ok((channel, is_old)) => {
                    let mut request = Request::new(request.clone());
                    if kind != Kind::Stream {
                        request.set_timeout(share);
                    }
                    let wire = InterceptedService::new(channel, self.bearer.clone());
                    let status = match timeout(share, send(wire, request)).await {
                        Ok(Ok(response)) => {
                            self.current.store(index, Ordering::Relaxed);
                            return Ok(response.into_inner());
                        }
                        Ok(Err(status)) => status,
                        Err(_) => Status::deadline_exceeded(""),
                    };
                    match trouble(&status) {
                        Trouble::Final => {
                            self.current.store(index, Ordering::Relaxed);
                            let failure = Failure::from_status(&status, kind == Kind::Write);
                            if uncertain && failure.exit == Exit::NotFound {
                                return Err(failure
                                    .hint("the answer to a first try was lost; it may well be that try that did it"));
                            }
                            return Err(failure);
                        }
                        found @ (Trouble::Busy | Trouble::Uncertain) => {
                            silent.clear();
                            some_late = false;
                            uncertain |= found == Trouble::Uncertain;
                            let wait = retry_delay(&status).unwrap_or(pause);
                            pause = (pause * 2).min(PAUSE_MAX);
                            if Instant::now() + wait >= deadline {
                                return Err(Failure::from_status(&status, kind == Kind::Write));
                            }
                            self.talk.note(&format!(
                                "{}: {}; trying again in {}",
                                self.targets[index].address,
                                status.message(),
                                human(wait)
                            ));
                            sleep(wait).await;
                            if status.code() == Code::Unavailable {
                                index = (index + 1) % count;
                            }
                            continue;
                        }
                        Trouble::Broken => {
                            uncertain = true;
                            if is_old {
                                // Says nothing about the peer, which may have been restarted since.
                                self.forget(index);
                                continue;
                            }
                            innermost_of(&status)
                        }
                        Trouble::Late => {
                            uncertain = true;
                            some_late = true;
                            format!("no answer within {}", human(share))
                        }
                    }
                }
            };
            let address = &self.targets[index].address;
            self.forget(index);
            silent.push(format!("{address}: {why}"));
            index = (index + 1) % count;
            if silent.len() >= count || Instant::now() >= deadline {
                return Err(self.nobody(kind, &silent, some_late, uncertain));
            }
            let next = &self.targets[index].address;
            self.talk
                .note(&format!("{address} does not answer ({why}), trying {next}"));
        }
    }

    fn nobody(&self, kind: Kind, silent: &[String], some_late: bool, uncertain: bool) -> Failure {
        let list = silent.join("; ");
        if some_late || (uncertain && kind == Kind::Write) {
            let failure = Failure::new(Exit::Unknown, format!("no answer in time ({list})"));
            return match kind {
                Kind::Write => failure.hint(
                    "whether it was carried out is not known; running the same command again is safe, \
                     and --timeout allows more time",
                ),
                _ => failure.hint("--timeout allows more time, --api names other peers"),
            };
        }
        Failure::new(Exit::Unavailable, format!("no peer can be reached ({list})"))
            .hint("is cluster-node running there? --api or PINFLEET_API names other peers, tried in order")
    }

    /// Reads a stream to its end and goes on elsewhere when it breaks off.
    ///
    /// `each` gets every message and changes the request so that it would go on behind that message. It answers
    /// whether to go on.
    pub async fn read_stream<Req, Res, F, Fut, E>(&self, mut request: Req, send: F, mut each: E) -> Result<(), Failure>
    where
        Req: Clone,
        F: Fn(Wire, Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Streaming<Res>>, Status>>,
        E: FnMut(&mut Req, Res) -> Result<bool, Failure>,
    {
        // Breaks in a row without a message in between. Every endpoint gets two tries.
        let mut breaks = 0;
        loop {
            let mut stream = self.call(Kind::Stream, request.clone(), &send).await?;
            let status = loop {
                match timeout(self.timeout, stream.message()).await {
                    Ok(Ok(Some(message))) => {
                        breaks = 0;
                        if !each(&mut request, message)? {
                            return Ok(());
                        }
                    }
                    Ok(Ok(None)) => return Ok(()),
                    Ok(Err(status)) => break status,
                    Err(_) => break Status::deadline_exceeded(format!("silent for {}", human(self.timeout))),
                }
            };
            breaks += 1;
            if trouble(&status) == Trouble::Final || breaks > 2 * self.targets.len() {
                return Err(Failure::from_status(&status, false));
            }
            let wait = retry_delay(&status).unwrap_or(PAUSE_MIN * breaks as u32);
            self.talk.note(&format!(
                "{}: the stream broke off ({}), going on",
                self.address(),
                innermost_of(&status)
            ));
            self.move_on();
            sleep(wait.min(PAUSE_MAX)).await;
        }
    }
}

/// Lets answers be as large as the cluster makes them.
macro_rules! service {
    ($module:ident :: $client:ident, $channel:expr) => {
        cluster_proto::v1::$module::$client::new($channel)
            .max_decoding_message_size($crate::client::message_bytes_max())
    };
}
pub(crate) use service;

/// The largest answer that is read.
pub fn message_bytes_max() -> usize {
    MESSAGE_BYTES_MAX
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// What broke, without the layers around it.
pub fn innermost_of(status: &Status) -> String {
    match status.source() {
        Some(source) => innermost(source),
        None if status.message().is_empty() => status.code().description().to_owned(),
        None => status.message().to_owned(),
    }
}

/// A fresh request ID.
pub fn request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_have_several_forms() {
        for (given, expected) in [
            ("127.0.0.1:9098", "http://127.0.0.1:9098"),
            ("http://peer-a.example:1/", "http://peer-a.example:1"),
            ("/ip4/127.0.0.1/tcp/9098", "http://127.0.0.1:9098"),
            ("/ip6/::1/tcp/9098", "http://[::1]:9098"),
            ("/dns4/peer-a/tcp/9098", "http://peer-a:9098"),
            ("unix:/var/lib/a/admin.sock", "unix:/var/lib/a/admin.sock"),
            ("unix:///var/lib/a/admin.sock", "unix:/var/lib/a/admin.sock"),
            ("/unix/var/lib/a/admin.sock", "unix:/var/lib/a/admin.sock"),
            ("unix:admin.sock", "unix:admin.sock"),
        ] {
            assert_eq!(parse_endpoint(given).as_deref(), Ok(expected));
        }
        for bad in [
            "",
            "host",
            "host:port",
            ":9098",
            "host:99999",
            "ftp://a:1/x",
            "/ip4/1.2.3.4",
            "https://a:1",
            "unix:",
            "/unix",
        ] {
            assert!(parse_endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_of_this_side_and_of_peers_are_told_apart() {
        assert_eq!(trouble(&Status::unavailable("no leader")), Trouble::Busy);
        assert_eq!(trouble(&Status::not_found("")), Trouble::Final);
        let broken = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        assert_eq!(trouble(&broken), Trouble::Broken);
    }
}
