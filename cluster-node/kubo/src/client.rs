//! The client of Kubo's RPC.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cluster_ipfs::{
    Added, Connected, Error, Held, Identity, Intake, IpfsNode, Listed, LookFor, MESSAGE_BYTES_MAX, Operation, Progress,
    ProgressSink, RepoStat, Updated, cut,
};
use futures::StreamExt;
use node_core::{Cid, ErrorClass, PinMode};
use reqwest::RequestBuilder;
use reqwest::header::{HeaderValue, TE};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout, timeout_at};

use crate::answer::{Answer, Broken, chain};
use crate::judge::{Said, Verdict, judge};
use crate::{Address, Credentials};

/// Idle connections kept to a daemon. More than a worker's permits are never in use at once.
const IDLE_CONNECTIONS_MAX: usize = 128;

/// Origins connected to at the same time.
const CONNECTS_MAX: usize = 8;

/// Times and choices of a [`KuboClient`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KuboOptions {
    /// For a connection to be there.
    pub connect_timeout: Duration,
    /// For a short call as a whole; for the first word of a long one, and for every silence in it.
    pub request_timeout: Duration,
    /// For a pin to grow by a block or a byte. There is no limit for a pin that grows.
    pub stall_timeout: Duration,
    /// For a whole `pin/update`, which tells no progress.
    pub update_timeout: Duration,
    /// For a whole `pin/rm`, which waits for garbage collection and tells no progress.
    pub unpin_timeout: Duration,
    /// Whether `pin_ls` also finds out that a CID lies below another pin. Kubo walks the graphs of all pins for that, which
    /// can take hours and keeps other pins waiting.
    pub look_for_indirect: bool,
}

impl Default for KuboOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(120),
            update_timeout: Duration::from_secs(600),
            unpin_timeout: Duration::from_secs(600),
            look_for_indirect: false,
        }
    }
}

/// Is told of every call that ended, for metrics. A call dropped by its caller did not end.
pub trait CallObserver: Send + Sync {
    /// A call ended.
    fn called(&self, operation: Operation, outcome: Result<(), ErrorClass>, took: Duration);
}

impl<F: Fn(Operation, Result<(), ErrorClass>, Duration) + Send + Sync> CallObserver for F {
    fn called(&self, operation: Operation, outcome: Result<(), ErrorClass>, took: Duration) {
        self(operation, outcome, took);
    }
}

/// Observes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl CallObserver for Silent {
    fn called(&self, _: Operation, _: Result<(), ErrorClass>, _: Duration) {}
}

/// An attached node: a Kubo daemon driven over its RPC. Clones are handles of the same.
#[derive(Clone)]
pub struct KuboClient {
    http: reqwest::Client,
    address: Address,
    credentials: Option<Credentials>,
    options: KuboOptions,
    observer: Arc<dyn CallObserver>,
}

/// A call that did not give its plain result: what follows, and the error for a caller to whom that is one.
pub(crate) struct Refused {
    pub(crate) verdict: Verdict,
    pub(crate) error: Error,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self {
            verdict: Verdict::Failed(error.class),
            error,
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        refused.error
    }
}

impl KuboClient {
    /// A client; nothing is sent yet. Fails when the system has no certificates and the address needs them.
    pub fn new(
        address: &Address,
        credentials: Option<Credentials>,
        options: KuboOptions,
        observer: Arc<dyn CallObserver>,
    ) -> Result<Self, Error> {
        // The first one in the process wins, and all of this workspace install the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(options.connect_timeout)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            // A redirect would carry the credentials elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            // The daemon is named exactly; a proxy of the environment is for the outside world.
            .no_proxy();
        if let Some(path) = address.socket() {
            builder = builder.unix_socket(path.to_owned());
        }
        if !address.is_tls() {
            // Does without the system's certificates, which a small container lacks.
            builder = builder.tls_certs_only([]);
        }
        let http = builder
            .build()
            .map_err(|e| Error::new(Operation::Id, ErrorClass::Permanent, chain(e), None))?;
        Ok(Self {
            http,
            address: address.clone(),
            credentials,
            options,
            observer,
        })
    }

    /// Where the daemon listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    pub(crate) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    pub(crate) fn options(&self) -> &KuboOptions {
        &self.options
    }

    /// Sends a call and reads the status; an error's words are read to their end.
    pub(crate) async fn open(&self, operation: Operation, query: &[(&str, &str)]) -> Result<Answer, Refused> {
        self.answer(operation, self.request(operation, query)).await
    }

    /// A call that is not sent yet.
    pub(crate) fn request(&self, operation: Operation, query: &[(&str, &str)]) -> RequestBuilder {
        let mut url = self.address.call(operation);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        // Kubo sends its trailer anyway, proxies pass it on only to those who say that they read it.
        let mut request = self.http.post(url).header(TE, HeaderValue::from_static("trailers"));
        if let Some(credentials) = &self.credentials {
            request = credentials.apply(request);
        }
        request
    }

    pub(crate) async fn answer(&self, operation: Operation, request: RequestBuilder) -> Result<Answer, Refused> {
        let response = request.send().await.map_err(|e| {
            let words = format!("{} does not answer: {}", self.address, chain(e));
            Error::new(operation, ErrorClass::Unreachable, words, None)
        })?;
        let status = response.status();
        let mut answer = Answer::new(response);
        if status.is_success() {
            return Ok(answer);
        }
        // JSON escapes make the words longer than they read.
        let body = answer.beginning(4 * MESSAGE_BYTES_MAX).await;
        let mut said = Said::parse(&body);
        if said.words.is_empty() {
            said = Said::text(&format!("HTTP status {status}"));
        }
        Err(self.refused(operation, status.as_u16(), said))
    }

    fn refused(&self, operation: Operation, status: u16, said: Said) -> Refused {
        let verdict = judge(operation, status, &said);
        let class = match verdict {
            Verdict::Failed(class) => class,
            // Of use only where the call does not expect the verdict.
            _ => ErrorClass::Temporary,
        };
        let words = match (class, status) {
            (ErrorClass::Unreachable, 300..=405 | 501) => {
                format!("what answers at {} is not Kubo's RPC: {}", self.address, said.words)
            }
            _ => said.words,
        };
        Refused {
            verdict,
            error: Error::new(operation, class, words, Some(status)),
        }
    }

    pub(crate) fn broken(&self, operation: Operation, broken: Broken) -> Refused {
        match broken {
            // Not "unreachable": the node was there, and if this content is what brings it down then that counts.
            Broken::Lost(words) => {
                let words = format!("the connection was lost in the middle of the answer: {words}");
                Error::new(operation, ErrorClass::Temporary, words, Some(200)).into()
            }
            Broken::TooLong(max) => malformed(operation, &format!("it is longer than {max} bytes")).into(),
            Broken::Said(words) => self.refused(operation, 200, Said::text(&words)),
        }
    }

    /// A call with one answer, within `limit`.
    async fn ask<T: DeserializeOwned>(
        &self,
        operation: Operation,
        query: &[(&str, &str)],
        limit: Duration,
        late: ErrorClass,
    ) -> Result<T, Refused> {
        let asked = async {
            let mut answer = self.open(operation, query).await?;
            let body = answer.whole().await.map_err(|broken| self.broken(operation, broken))?;
            serde_json::from_slice(&body).map_err(|error| malformed(operation, &quoted(&body, &error)).into())
        };
        timeout(limit, asked).await.unwrap_or_else(|_| {
            let words = format!("{} did not answer within {limit:?}", self.address);
            Err(Error::new(operation, late, words, None).into())
        })
    }

    /// A short call: no answer in time means that the daemon hangs.
    async fn ask_short<T: DeserializeOwned>(&self, operation: Operation, query: &[(&str, &str)]) -> Result<T, Refused> {
        self.ask(operation, query, self.options.request_timeout, ErrorClass::Unreachable)
            .await
    }

    async fn observed<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let result = call.await;
        let outcome = result.as_ref().map(|_| ()).map_err(|e| e.class);
        self.observer.called(operation, outcome, began.elapsed());
        if let Err(error) = &result {
            tracing::debug!(address = %self.address, %operation, class = error.class.as_str(), message = error.message, "call failed");
        }
        result
    }

    async fn add(&self, cid: &Cid, mode: PinMode, name: &str, sink: ProgressSink<'_>) -> Result<Added, Error> {
        const OPERATION: Operation = Operation::PinAdd;
        let cid = cid.to_string();
        let recursive = if mode == PinMode::Recursive { "true" } else { "false" };
        let query = [
            ("arg", cid.as_str()),
            ("recursive", recursive),
            ("progress", "true"),
            ("name", name),
        ];
        // An empty name would be one to daemons that know names, and a mistake to those that do not.
        let query = if name.is_empty() { &query[..3] } else { &query[..] };
        let mut reached = Progress::default();
        let mut stalled_at = Instant::now() + self.options.stall_timeout;
        let mut silent_at = Instant::now() + self.options.request_timeout;

        let opened = timeout_at(silent_at.min(stalled_at), self.open(OPERATION, query)).await;
        let mut answer = match opened {
            Err(_) => return Err(self.too_late(stalled_at, reached)),
            Ok(Err(refused)) => return added_or(refused, reached),
            Ok(Ok(answer)) => answer,
        };
        loop {
            let line = match timeout_at(silent_at.min(stalled_at), answer.line()).await {
                Err(_) => return Err(self.too_late(stalled_at, reached)),
                Ok(Ok(Some(line))) => line,
                Ok(Ok(None)) => return Err(malformed(OPERATION, "it ended without saying whether it is pinned")),
                Ok(Err(broken)) => return added_or(self.broken(OPERATION, broken), reached),
            };
            silent_at = Instant::now() + self.options.request_timeout;
            let line = AddLine::parse(&line).map_err(|reason| malformed(OPERATION, &reason))?;
            if let Some(words) = line.message {
                let said = Said {
                    words: cut(&words, MESSAGE_BYTES_MAX),
                    code: line.code,
                };
                return added_or(self.refused(OPERATION, 200, said), reached);
            }
            let now = Progress {
                blocks: line.progress,
                bytes: line.bytes,
            };
            // Kubo sends a line every half second, moved or not: only growth is progress.
            if now.is_beyond(reached) {
                reached = now;
                stalled_at = Instant::now() + self.options.stall_timeout;
                sink(reached);
            }
            if line.pins.is_some_and(|pins| !pins.is_empty()) {
                return Ok(Added {
                    held: mode,
                    progress: reached,
                });
            }
        }
    }

    fn too_late(&self, stalled_at: Instant, reached: Progress) -> Error {
        const OPERATION: Operation = Operation::PinAdd;
        let Progress { blocks, bytes } = reached;
        if Instant::now() < stalled_at {
            let limit = self.options.request_timeout;
            let words = format!("{} said nothing for {limit:?}", self.address);
            return Error::new(OPERATION, ErrorClass::Unreachable, words, None);
        }
        let limit = self.options.stall_timeout;
        let words = if blocks == 0 {
            format!("no block came within {limit:?}: the node found nobody who has it")
        } else {
            format!("no progress for {limit:?} after {blocks} blocks and {bytes} bytes")
        };
        Error::new(OPERATION, ErrorClass::Stalled, words, Some(200))
    }

    async fn list(&self, cid: &str, kind: &str) -> Result<Option<Listed>, Error> {
        let query = [("arg", cid), ("type", kind), ("names", "true")];
        let keys: Keys = match self.ask_short(Operation::PinLs, &query).await {
            Ok(keys) => keys,
            Err(Refused {
                verdict: Verdict::NotPinned,
                ..
            }) => return Ok(None),
            Err(refused) => return Err(refused.error),
        };
        let Some(key) = keys.keys.into_values().next() else {
            return Ok(None);
        };
        let held = match key.kind.as_str() {
            "recursive" => Held::Recursive,
            "direct" => Held::Direct,
            // Followed by "through" and the CID of the pin.
            indirect if indirect.starts_with("indirect") => Held::Indirect,
            other => {
                return Err(malformed(
                    Operation::PinLs,
                    &format!("a pin of type {:?}", cut(other, 80)),
                ));
            }
        };
        Ok(Some(Listed { held, name: key.name }))
    }

    async fn connect(&self, origin: &str) -> Result<(), Error> {
        let answer: Result<serde::de::IgnoredAny, _> =
            self.ask_short(Operation::SwarmConnect, &[("arg", origin)]).await;
        answer.map(|_| ()).map_err(|Refused { mut error, .. }| {
            error.message = cut(&format!("{origin}: {}", error.message), MESSAGE_BYTES_MAX);
            error
        })
    }
}

fn added_or(refused: Refused, progress: Progress) -> Result<Added, Error> {
    match refused.verdict {
        Verdict::HeldRecursively => Ok(Added {
            held: PinMode::Recursive,
            progress,
        }),
        _ => Err(refused.error),
    }
}

fn malformed(operation: Operation, reason: &str) -> Error {
    let words = format!("the answer is not what Kubo sends: {reason}");
    Error::new(operation, ErrorClass::Temporary, words, Some(200))
}

/// The beginning of what could not be understood, and why.
fn quoted(body: &[u8], error: &serde_json::Error) -> String {
    format!("{error} in {:?}", cut(&String::from_utf8_lossy(body), 200))
}

#[async_trait]
impl IpfsNode for KuboClient {
    async fn id(&self) -> Result<Identity, Error> {
        self.observed(Operation::Id, async {
            let answer: IdAnswer = self.ask_short(Operation::Id, &[]).await?;
            Ok(Identity {
                peer_id: answer.id,
                addresses: answer.addresses.unwrap_or_default(),
                agent: answer.agent,
            })
        })
        .await
    }

    async fn version(&self) -> Result<String, Error> {
        self.observed(Operation::Version, async {
            let answer: VersionAnswer = self.ask_short(Operation::Version, &[]).await?;
            Ok(answer.version)
        })
        .await
    }

    async fn repo_stat(&self) -> Result<RepoStat, Error> {
        self.observed(Operation::RepoStat, async {
            let query = [("size-only", "true")];
            let answer: StatAnswer = self.ask_short(Operation::RepoStat, &query).await?;
            // Kubo's word for "no limit" is the largest number; another implementation may leave it out.
            let max_bytes = (answer.max != 0 && answer.max != u64::MAX).then_some(answer.max);
            Ok(RepoStat {
                used_bytes: answer.used,
                max_bytes,
            })
        })
        .await
    }

    async fn pin_add(&self, cid: &Cid, mode: PinMode, name: &str, progress: ProgressSink<'_>) -> Result<Added, Error> {
        self.observed(Operation::PinAdd, self.add(cid, mode, name, progress))
            .await
    }

    async fn pin_update(&self, from: &Cid, to: &Cid, _progress: ProgressSink<'_>) -> Result<Updated, Error> {
        self.observed(Operation::PinUpdate, async {
            let (from, to) = (from.to_string(), to.to_string());
            let query = [("arg", from.as_str()), ("arg", to.as_str()), ("unpin", "false")];
            let limit = self.options.update_timeout;
            match self
                .ask::<PinsAnswer>(Operation::PinUpdate, &query, limit, ErrorClass::Stalled)
                .await
            {
                Ok(_)
                | Err(Refused {
                    verdict: Verdict::Done, ..
                }) => Ok(Updated::Done(Progress::default())),
                Err(Refused {
                    verdict: Verdict::SourceNotPinned,
                    ..
                }) => Ok(Updated::SourceNotPinned),
                Err(refused) => Err(refused.error),
            }
        })
        .await
    }

    async fn pin_rm(&self, cid: &Cid) -> Result<bool, Error> {
        self.observed(Operation::PinRm, async {
            let cid = cid.to_string();
            // "Recursive" here means "of whatever kind".
            let query = [("arg", cid.as_str()), ("recursive", "true")];
            let limit = self.options.unpin_timeout;
            match self
                .ask::<PinsAnswer>(Operation::PinRm, &query, limit, ErrorClass::Stalled)
                .await
            {
                Ok(_) => Ok(true),
                Err(Refused {
                    verdict: Verdict::NotPinned,
                    ..
                }) => Ok(false),
                Err(refused) => Err(refused.error),
            }
        })
        .await
    }

    async fn pin_ls(&self, cid: &Cid, look_for: LookFor) -> Result<Option<Listed>, Error> {
        self.observed(Operation::PinLs, async {
            let cid = cid.to_string();
            if self.options.look_for_indirect {
                return self.list(&cid, "all").await;
            }
            if look_for == LookFor::Recursive {
                return self.list(&cid, "recursive").await;
            }
            // Two look-ups in Kubo's indexes, side by side; asking for "all" walks the graphs of all pins when neither
            // has it.
            let (recursive, direct) = futures::try_join!(self.list(&cid, "recursive"), self.list(&cid, "direct"))?;
            Ok(recursive.or(direct))
        })
        .await
    }

    async fn swarm_connect(&self, origins: &[String]) -> Connected {
        // One call each: Kubo leaves out the rest at the first that fails.
        let mut calls = Vec::with_capacity(origins.len());
        for origin in origins {
            calls.push(self.observed(Operation::SwarmConnect, self.connect(origin)));
        }
        let results: Vec<Result<(), Error>> = futures::stream::iter(calls).buffered(CONNECTS_MAX).collect().await;
        let mut outcome = Connected::default();
        for result in results {
            match result {
                Ok(()) => outcome.connected += 1,
                Err(error) => outcome.failures.push(error),
            }
        }
        outcome
    }

    async fn blocks(&self, cids: &[Cid]) -> Result<Vec<Option<Bytes>>, Error> {
        self.observed(Operation::Blocks, self.many_blocks(cids)).await
    }

    async fn intake(&self) -> Result<Box<dyn Intake>, Error> {
        self.observed(Operation::Intake, async {
            Ok(Box::new(self.import()?) as Box<dyn Intake>)
        })
        .await
    }
}

#[derive(Deserialize)]
struct IdAnswer {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Addresses", default)]
    addresses: Option<Vec<String>>,
    #[serde(rename = "AgentVersion", default)]
    agent: String,
}

#[derive(Deserialize)]
struct VersionAnswer {
    #[serde(rename = "Version")]
    version: String,
}

#[derive(Deserialize)]
struct StatAnswer {
    #[serde(rename = "RepoSize")]
    used: u64,
    #[serde(rename = "StorageMax", default)]
    max: u64,
}

#[derive(Deserialize)]
struct PinsAnswer {
    #[serde(rename = "Pins")]
    _pins: Vec<String>,
}

#[derive(Deserialize)]
struct Keys {
    #[serde(rename = "Keys", default)]
    keys: std::collections::BTreeMap<String, Key>,
}

#[derive(Deserialize)]
struct Key {
    #[serde(rename = "Type")]
    kind: String,
    /// Not there below Kubo 0.24, which knows no names.
    #[serde(rename = "Name")]
    name: Option<String>,
}

/// One line of `pin/add`: progress, the pins, or an error. Kubo leaves out what is zero.
#[derive(Deserialize, Default)]
struct AddLine {
    #[serde(rename = "Pins", default)]
    pins: Option<Vec<String>>,
    #[serde(rename = "Progress", default)]
    progress: u64,
    #[serde(rename = "Bytes", default)]
    bytes: u64,
    #[serde(rename = "Message", default)]
    message: Option<String>,
    #[serde(rename = "Code", default)]
    code: Option<u64>,
}

impl AddLine {
    fn parse(line: &[u8]) -> Result<Self, String> {
        // serde would take an array for it too, and an empty one for no progress.
        if !line.trim_ascii_start().starts_with(b"{") {
            return Err(format!("no object in {:?}", cut(&String::from_utf8_lossy(line), 200)));
        }
        serde_json::from_slice(line).map_err(|e| quoted(line, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_all_kinds_are_read() {
        let empty = AddLine::parse(b"{}").expect("kubo's line without progress");
        assert_eq!((empty.progress, empty.bytes), (0, 0));
        assert!(empty.pins.is_none() && empty.message.is_none());
        let grown = AddLine::parse(br#"{"Progress":7,"Bytes":1024}"#).expect("progress");
        assert_eq!((grown.progress, grown.bytes), (7, 1024));
        let old = AddLine::parse(br#"{"Pins":null,"Progress":7}"#).expect("kubo before 0.40");
        assert_eq!((old.progress, old.bytes), (7, 0));
        let error = AddLine::parse(br#"{"Message":"x","Code":0,"Type":"error"}"#).expect("error");
        assert_eq!(error.message.as_deref(), Some("x"));
        for bad in [&b"<html>"[..], b"[]", b"{\"Progress\":\"7\"}", b"\xff"] {
            assert!(AddLine::parse(bad).is_err());
        }
    }
}
