//! The client of trustless gateways: blocks over HTTP, each checked against its CID.
//!
//! <https://specs.ipfs.tech/http-gateways/trustless-gateway/>: `GET /ipfs/{cid}?format=raw` for one block, and
//! `?format=car&dag-scope=all` for a DAG from its root on. Nothing is believed: a block that has another hash counts as
//! a failure of the gateway, and one that lies repeatedly is left alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster_dag::car::{CarEvent, CarReader};
use cluster_dag::{BLOCK_BYTES_MAX, Block, DagError};
use cluster_ipfs::cut;
use node_core::{Cid, Invalid};
use parking_lot::Mutex;
use reqwest::header::ACCEPT;
use reqwest::{Client, Response, StatusCode, Url};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{BodyError, base, chain, piece, retry_after, whole};
use crate::breaker::Breaker;

/// Gateways that can be configured: a bit each in what is noted of a block.
pub const GATEWAYS_MAX: usize = 16;

/// Requests that may be under way at one gateway, at most.
pub const REQUESTS_MAX: usize = 64;

/// Which gateways there are and how they are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayConfig {
    /// Base addresses, without `/ipfs`, best first: at most [`GATEWAYS_MAX`]. None: no gateway is asked.
    pub gateways: Vec<String>,
    /// Requests under way at one gateway, 1 to [`REQUESTS_MAX`].
    pub requests: usize,
    /// How long a block is looked for among peers before a gateway is asked. Zero: gateways are asked at once.
    pub after: Duration,
    /// For the first byte of an answer, and for every silence in it. A public gateway looks for what it has not got
    /// itself, which takes its time.
    pub silence: Duration,
    /// Whether a gateway is asked for the whole DAG in one CAR when a fetch begins. Saves round trips for deep DAGs,
    /// and fetches what other sources bring at the same time.
    pub car: bool,
}

impl Default for GatewayConfig {
    /// No gateways: which third parties learn what is looked for is for the operator to say.
    fn default() -> Self {
        Self {
            gateways: Vec::new(),
            requests: 8,
            after: Duration::from_secs(1),
            silence: Duration::from_secs(20),
            car: true,
        }
    }
}

/// How a gateway does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayReport {
    /// Its address.
    pub gateway: String,
    /// Whether it is asked at present, or left alone after failures.
    pub usable: bool,
    /// Requests under way.
    pub requests: usize,
    /// Blocks that came from it since the start.
    pub blocks: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Failures since the start: answers that can't be used, not blocks that it has not got.
    pub failures: u64,
    /// The last failure; empty when there was none.
    pub last_failure: String,
}

#[derive(Default)]
struct State {
    breaker: Breaker,
    requests: usize,
    blocks: u64,
    bytes: u64,
    failures: u64,
    last_failure: String,
}

struct Gateway {
    url: Url,
    state: Mutex<State>,
}

/// What came of a request for a block.
#[derive(Debug)]
pub(crate) enum Answered {
    /// The block, checked.
    Block(Block),
    /// The gateway has it not, or does not serve it.
    Missing,
    /// No answer that could be used.
    Failed(String),
}

/// What went wrong, and whether the gateway asks to be left alone.
struct Failed(String, Option<Duration>);

/// The gateways.
#[derive(Clone)]
pub(crate) struct Gateways {
    http: Client,
    gateways: Arc<[Gateway]>,
    requests: usize,
    silence: Duration,
    started: Instant,
}

impl Gateways {
    /// Checks the addresses; nothing is sent yet.
    pub(crate) fn new(http: Client, config: &GatewayConfig) -> Result<Self, Invalid> {
        if config.gateways.len() > GATEWAYS_MAX {
            let given = format!("{} addresses", config.gateways.len());
            return Err(Invalid::new("gateways.gateways", given, "give at most 16"));
        }
        if !(1..=REQUESTS_MAX).contains(&config.requests) {
            let given = config.requests.to_string();
            return Err(Invalid::new("gateways.requests", given, "give 1 to 64"));
        }
        let gateways: Result<Vec<Gateway>, Invalid> = config
            .gateways
            .iter()
            .map(|text| {
                Ok(Gateway {
                    url: base("gateways.gateways", text)?,
                    state: Mutex::default(),
                })
            })
            .collect();
        Ok(Self {
            http,
            gateways: gateways?.into(),
            requests: config.requests,
            silence: config.silence,
            started: Instant::now(),
        })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.gateways.len()
    }

    /// Which of them may be asked now, as bits.
    pub(crate) fn usable(&self) -> u16 {
        let now = self.started.elapsed();
        let mut bits = 0;
        for (place, gateway) in self.gateways.iter().enumerate() {
            let state = gateway.state.lock();
            if state.requests < self.requests && state.breaker.allows(now) {
                bits |= 1 << place;
            }
        }
        bits
    }

    /// Which of them are well, be they busy or not, as bits.
    pub(crate) fn well(&self) -> u16 {
        let now = self.started.elapsed();
        let mut bits = 0;
        for (place, gateway) in self.gateways.iter().enumerate() {
            let state = gateway.state.lock();
            // One with requests under way is about to show whether it is well.
            if state.requests > 0 || state.breaker.allows(now) {
                bits |= 1 << place;
            }
        }
        bits
    }

    /// How they do.
    pub(crate) fn report(&self) -> Vec<GatewayReport> {
        let now = self.started.elapsed();
        let of = |gateway: &Gateway| {
            let state = gateway.state.lock();
            GatewayReport {
                gateway: gateway.url.to_string(),
                usable: state.breaker.allows(now),
                requests: state.requests,
                blocks: state.blocks,
                bytes: state.bytes,
                failures: state.failures,
                last_failure: state.last_failure.clone(),
            }
        };
        self.gateways.iter().map(of).collect()
    }

    /// Asks one gateway for one block. It counts as asked from this call on, and not only when the future is polled.
    pub(crate) fn block(&self, place: usize, cid: Cid) -> impl Future<Output = Answered> + Send + use<> {
        let request = Request::begin(&self.gateways, place);
        let this = self.clone();
        async move {
            let Some(mut request) = request else {
                return Answered::Missing;
            };
            let gateway = &this.gateways[place];
            let result = this.raw(gateway, cid).await;
            request.settled = true;
            match result {
                Ok(Some(block)) => {
                    this.answered(gateway, 1, block.bytes().len() as u64);
                    Answered::Block(block)
                }
                Ok(None) => {
                    this.answered(gateway, 0, 0);
                    Answered::Missing
                }
                Err(failed) => Answered::Failed(this.failed(gateway, failed)),
            }
        }
    }

    /// Asks one gateway for a DAG, and hands over its blocks in the order in which they come, as long as somebody takes
    /// them. Returns how it ended: whole, or why not.
    pub(crate) async fn car(&self, place: usize, root: Cid, blocks: mpsc::Sender<Block>) -> Result<(), String> {
        let Some(mut request) = Request::begin(&self.gateways, place) else {
            return Err("there is no such gateway".into());
        };
        let gateway = &self.gateways[place];
        let result = self.stream(gateway, root, &blocks).await;
        request.settled = true;
        match result {
            Ok(()) => {
                self.answered(gateway, 0, 0);
                Ok(())
            }
            Err(failed) => Err(self.failed(gateway, failed)),
        }
    }

    fn answered(&self, gateway: &Gateway, blocks: u64, bytes: u64) {
        let mut state = gateway.state.lock();
        state.breaker.answered();
        state.blocks += blocks;
        state.bytes += bytes;
    }

    fn failed(&self, gateway: &Gateway, Failed(reason, pause): Failed) -> String {
        let mut state = gateway.state.lock();
        state.breaker.failed(self.started.elapsed(), pause);
        state.failures += 1;
        state.last_failure = cut(&reason, 500);
        let words = format!("gateway {}: {}", gateway.url, state.last_failure);
        tracing::debug!(gateway = %gateway.url, reason = state.last_failure, "gateway failed");
        words
    }

    /// Sends a request. None: it has it not.
    async fn open(&self, gateway: &Gateway, path: &str, accept: &'static str) -> Result<Option<Response>, Failed> {
        let url = gateway.url.join(path).map_err(|e| Failed(e.to_string(), None))?;
        let sent = timeout(self.silence, self.http.get(url).header(ACCEPT, accept).send()).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(Failed(format!("it does not answer: {}", chain(&error)), None)),
            Err(_) => return Err(Failed(format!("it did not answer within {:?}", self.silence), None)),
        };
        let status = response.status();
        match status {
            StatusCode::OK => Ok(Some(response)),
            // It looked and found nobody, or serves only some content, or not this one for legal reasons: it works, but
            // not for this. A gateway that runs out of time looking says so with 504 (the specification's word for it).
            StatusCode::NOT_FOUND
            | StatusCode::GONE
            | StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS
            | StatusCode::PRECONDITION_FAILED
            | StatusCode::NOT_IMPLEMENTED
            | StatusCode::NOT_ACCEPTABLE
            | StatusCode::BAD_REQUEST
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::GATEWAY_TIMEOUT => Ok(None),
            status => Err(Failed(format!("HTTP status {status}"), retry_after(response.headers()))),
        }
    }

    async fn raw(&self, gateway: &Gateway, cid: Cid) -> Result<Option<Block>, Failed> {
        let path = format!("ipfs/{cid}?format=raw");
        let Some(mut response) = self.open(gateway, &path, "application/vnd.ipld.raw").await? else {
            return Ok(None);
        };
        let body = whole(&mut response, self.silence, BLOCK_BYTES_MAX).await;
        let bytes: Bytes = body.map_err(|error| broken(error, BLOCK_BYTES_MAX as u64))?;
        match Block::new(cid, bytes) {
            Ok(block) => Ok(Some(block)),
            Err(DagError::HashMismatch { .. }) => Err(Failed(
                format!("it sent other bytes than {cid} names: it is broken or lies"),
                None,
            )),
            // Of the CID, and not of the gateway: the caller finds out by itself before it asks.
            Err(_) => Ok(None),
        }
    }

    async fn stream(&self, gateway: &Gateway, root: Cid, blocks: &mpsc::Sender<Block>) -> Result<(), Failed> {
        let path = format!("ipfs/{root}?format=car&dag-scope=all");
        let accept = "application/vnd.ipld.car; version=1; order=dfs; dups=n";
        let Some(mut response) = self.open(gateway, &path, accept).await? else {
            return Ok(());
        };
        let mut reader = CarReader::new();
        let lies = |error: cluster_dag::car::CarError| Failed(error.to_string(), None);
        loop {
            let next = piece(&mut response, self.silence).await;
            let Some(piece) = next.map_err(|error| broken(error, 0))? else {
                return reader.finish().map_err(lies);
            };
            reader.push(&piece);
            while let Some(event) = reader.next().map_err(lies)? {
                let CarEvent::Block(block) = event else {
                    continue;
                };
                {
                    let mut state = gateway.state.lock();
                    state.blocks += 1;
                    state.bytes += block.bytes().len() as u64;
                }
                // Waits while nobody takes them, so a gateway is never faster than the disk.
                if blocks.send(block).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

fn broken(error: BodyError, bytes_max: u64) -> Failed {
    let words = match error {
        BodyError::TooLong => format!("its answer is longer than the {bytes_max} bytes that a block can have"),
        BodyError::Silent(limit) => format!("it said nothing for {limit:?} in the middle of an answer"),
        BodyError::Lost(words) => format!("the connection was lost in the middle of an answer: {words}"),
    };
    Failed(words, None)
}

/// Counts a request however its future ends.
struct Request {
    gateways: Arc<[Gateway]>,
    place: usize,
    settled: bool,
}

impl Request {
    /// None: there is no such gateway.
    fn begin(gateways: &Arc<[Gateway]>, place: usize) -> Option<Self> {
        let mut state = gateways.get(place)?.state.lock();
        state.requests += 1;
        state.breaker.asked();
        Some(Self {
            gateways: Arc::clone(gateways),
            place,
            settled: false,
        })
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let mut state = self.gateways[self.place].state.lock();
        state.requests -= 1;
        if !self.settled {
            state.breaker.dropped();
        }
    }
}
