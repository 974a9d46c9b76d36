//! The client of delegated routing: asks a service who has something.
//!
//! <https://specs.ipfs.tech/routing/http-routing-v1/>: `GET /routing/v1/providers/{cid}` and `/routing/v1/peers/{id}`,
//! answered with one JSON object or, piece by piece as it is found, with a line of JSON for each record. Records of the
//! schemas `peer` and `bitswap` (the older form) name peers; others are passed over, as the specification asks. What a
//! service says is a hint: whoever it names has to bring the block.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use cluster_ipfs::cut;
use multiaddr::{Multiaddr, PeerId, Protocol};
use node_core::{Cid, Invalid};
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;
use tokio::time::timeout;

use super::{BodyError, base, chain, piece, retry_after};
use crate::breaker::Breaker;

/// Services asked, side by side.
pub const ROUTERS_MAX: usize = 8;

/// Longest line of a streamed answer, in bytes: a record with a hundred addresses takes some 10 KiB.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Longest answer read, in bytes. Services answer with at most 100 records.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Records taken of one answer.
const RECORDS_MAX: usize = 200;

/// Addresses taken of one record; more than a peer can sensibly have, and each is a dial.
const ADDRESSES_MAX: usize = 16;

/// The multicodec of a peer ID as a CID.
const LIBP2P_KEY: u64 = 0x72;

/// What the routers are and how long they are waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutingConfig {
    /// Base addresses, without `/routing/v1`: at most [`ROUTERS_MAX`]. None: delegated routing is off.
    pub routers: Vec<String>,
    /// For the first byte of an answer, and for every silence in it.
    pub silence: Duration,
    /// For an answer as a whole. What was found until then counts.
    pub timeout: Duration,
}

impl Default for RoutingConfig {
    /// No routers: which third parties learn what is looked for is for the operator to say.
    fn default() -> Self {
        Self {
            routers: Vec::new(),
            silence: Duration::from_secs(10),
            timeout: Duration::from_secs(30),
        }
    }
}

/// Somebody who is said to have something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Who.
    pub peer: PeerId,
    /// Where, each ending in `/p2p/ID`; none where the record names none.
    pub addresses: Vec<Multiaddr>,
}

/// Why a service gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{router}: {reason}")]
pub struct RoutingError {
    /// Its address.
    pub router: String,
    /// What went wrong.
    pub reason: String,
}

/// How a router does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterReport {
    /// Its address.
    pub router: String,
    /// Whether it is asked at present, or left alone after failures.
    pub usable: bool,
    /// Answers since the start.
    pub answers: u64,
    /// Failures since the start.
    pub failures: u64,
    /// The last failure; empty when there was none.
    pub last_failure: String,
}

#[derive(Default)]
struct State {
    breaker: Breaker,
    answers: u64,
    failures: u64,
    last_failure: String,
}

struct Router {
    url: Url,
    state: Mutex<State>,
}

/// The services that are asked.
#[derive(Clone)]
pub struct Routers {
    http: Client,
    routers: Arc<[Router]>,
    silence: Duration,
    timeout: Duration,
    started: Instant,
}

/// What went wrong, and whether the service asks to be left alone.
struct Failed(String, Option<Duration>);

impl From<BodyError> for Failed {
    fn from(error: BodyError) -> Self {
        let words = match error {
            BodyError::TooLong => format!("its answer is longer than {ANSWER_BYTES_MAX} bytes"),
            BodyError::Silent(limit) => format!("it said nothing for {limit:?}"),
            BodyError::Lost(words) => format!("the connection was lost: {words}"),
        };
        Self(words, None)
    }
}

impl Routers {
    /// Checks the addresses; nothing is sent yet.
    pub fn new(http: Client, config: &RoutingConfig) -> Result<Self, Invalid> {
        if config.routers.len() > ROUTERS_MAX {
            let given = format!("{} addresses", config.routers.len());
            return Err(Invalid::new("routing.routers", given, "give at most 8"));
        }
        let routers: Result<Vec<Router>, Invalid> = config
            .routers
            .iter()
            .map(|text| {
                Ok(Router {
                    url: base("routing.routers", text)?,
                    state: Mutex::default(),
                })
            })
            .collect();
        Ok(Self {
            http,
            routers: routers?.into(),
            silence: config.silence,
            timeout: config.timeout,
            started: Instant::now(),
        })
    }

    /// Whether there is none to ask.
    pub fn is_empty(&self) -> bool {
        self.routers.is_empty()
    }

    /// Asks all that are well who has a block, and hands over what they say as it comes, until `found` returns false.
    /// Fails when none of them answered; with no router it succeeds and finds nobody.
    pub async fn providers(
        &self,
        cid: &Cid,
        found: impl Fn(Provider) -> bool + Send + Sync,
    ) -> Result<(), RoutingError> {
        self.ask_all(&format!("routing/v1/providers/{cid}"), &found).await
    }

    /// Asks all that are well where a peer is.
    pub async fn peers(
        &self,
        peer: &PeerId,
        found: impl Fn(Provider) -> bool + Send + Sync,
    ) -> Result<(), RoutingError> {
        let id = peer_cid(peer);
        self.ask_all(&format!("routing/v1/peers/{id}"), &found).await
    }

    /// How they do.
    pub fn report(&self) -> Vec<RouterReport> {
        let now = self.started.elapsed();
        let of = |router: &Router| {
            let state = router.state.lock();
            RouterReport {
                router: router.url.to_string(),
                usable: state.breaker.allows(now),
                answers: state.answers,
                failures: state.failures,
                last_failure: state.last_failure.clone(),
            }
        };
        self.routers.iter().map(of).collect()
    }

    async fn ask_all(&self, path: &str, found: &(dyn Fn(Provider) -> bool + Send + Sync)) -> Result<(), RoutingError> {
        let asked = self.routers.iter().map(|router| self.ask(router, path, found));
        let mut results: Vec<Result<(), RoutingError>> = futures::future::join_all(asked).await;
        let failed = !results.is_empty() && results.iter().all(Result::is_err);
        if failed { results.swap_remove(0) } else { Ok(()) }
    }

    async fn ask(
        &self,
        router: &Router,
        path: &str,
        found: &(dyn Fn(Provider) -> bool + Send + Sync),
    ) -> Result<(), RoutingError> {
        let error = |reason: String| RoutingError {
            router: router.url.to_string(),
            reason,
        };
        {
            let mut state = router.state.lock();
            if !state.breaker.allows(self.started.elapsed()) {
                return Err(error(format!("left alone for a while after: {}", state.last_failure)));
            }
            state.breaker.asked();
        }
        let mut asking = Asking { router, settled: false };
        let result = match timeout(self.timeout, self.read(router, path, found)).await {
            Ok(result) => result,
            // What it told until then was taken.
            Err(_) => Err(Failed(
                format!("its answer did not end within {:?}", self.timeout),
                None,
            )),
        };
        asking.settled = true;
        let mut state = router.state.lock();
        match result {
            Ok(()) => {
                state.breaker.answered();
                state.answers += 1;
                Ok(())
            }
            Err(Failed(reason, pause)) => {
                state.breaker.failed(self.started.elapsed(), pause);
                state.failures += 1;
                state.last_failure = cut(&reason, 500);
                Err(error(state.last_failure.clone()))
            }
        }
    }

    async fn read(
        &self,
        router: &Router,
        path: &str,
        found: &(dyn Fn(Provider) -> bool + Send + Sync),
    ) -> Result<(), Failed> {
        let url = router.url.join(path).map_err(|e| Failed(e.to_string(), None))?;
        let request = self
            .http
            .get(url)
            .header(ACCEPT, "application/x-ndjson, application/json");
        let mut response = timeout(self.silence, request.send())
            .await
            .map_err(|_| Failed::from(BodyError::Silent(self.silence)))?
            .map_err(|error| Failed(format!("it does not answer: {}", chain(&error)), None))?;
        match response.status() {
            StatusCode::OK => {}
            // How older services say that they know of nobody.
            StatusCode::NOT_FOUND => return Ok(()),
            status => return Err(Failed(format!("HTTP status {status}"), retry_after(response.headers()))),
        }
        let kind = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let lines = kind.is_some_and(|kind| kind.starts_with("application/x-ndjson"));
        let mut left = RECORDS_MAX;
        let mut take = |record: Record| {
            left -= 1;
            let goes_on = record.provider().is_none_or(found);
            goes_on && left > 0
        };
        if !lines {
            let body = super::whole(&mut response, self.silence, ANSWER_BYTES_MAX).await?;
            let answer: Answer = serde_json::from_slice(&body).map_err(|error| no_json(&body, &error))?;
            for record in answer.providers.or(answer.peers).unwrap_or_default() {
                if !take(record) {
                    break;
                }
            }
            return Ok(());
        }
        let (mut buffer, mut read) = (BytesMut::new(), 0);
        loop {
            let piece = piece(&mut response, self.silence).await?;
            let ended = piece.is_none();
            if let Some(piece) = piece {
                read += piece.len();
                if read > ANSWER_BYTES_MAX {
                    return Err(BodyError::TooLong.into());
                }
                buffer.extend_from_slice(&piece);
            } else {
                // The last line may lack its end.
                buffer.extend_from_slice(b"\n");
            }
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line = buffer.split_to(end + 1);
                let line = line.trim_ascii();
                if line.is_empty() {
                    continue;
                }
                let record: Record = serde_json::from_slice(line).map_err(|error| no_json(line, &error))?;
                if !take(record) {
                    return Ok(());
                }
            }
            if ended {
                return Ok(());
            }
            if buffer.len() > LINE_BYTES_MAX {
                return Err(Failed(
                    format!("a line of its answer is longer than {LINE_BYTES_MAX} bytes"),
                    None,
                ));
            }
        }
    }
}

/// Gives a probe back when its caller stops waiting.
struct Asking<'a> {
    router: &'a Router,
    settled: bool,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.router.state.lock().breaker.dropped();
        }
    }
}

fn no_json(body: &[u8], error: &serde_json::Error) -> Failed {
    let beginning = cut(&String::from_utf8_lossy(&body[..body.len().min(400)]), 200);
    Failed(
        format!("its answer is not that of a router: {error} in {beginning:?}"),
        None,
    )
}

/// A peer ID in the form that the specification asks for.
fn peer_cid(peer: &PeerId) -> String {
    let mut binary = vec![1, LIBP2P_KEY as u8];
    binary.extend(peer.to_bytes());
    // A peer ID is a multihash, so this is a CID; the older form is taken by services too.
    Cid::from_bytes(&binary).map_or_else(|_| peer.to_string(), |cid| cid.to_string())
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Providers", default)]
    providers: Option<Vec<Record>>,
    #[serde(rename = "Peers", default)]
    peers: Option<Vec<Record>>,
}

#[derive(Deserialize)]
struct Record {
    #[serde(rename = "Schema", default)]
    schema: String,
    #[serde(rename = "ID", default)]
    id: Option<serde_json::Value>,
    #[serde(rename = "Addrs", default)]
    addresses: Option<Vec<serde_json::Value>>,
}

impl Record {
    /// The peer, of records that name one. Addresses that can't be read are left out: new kinds appear all the time.
    fn provider(self) -> Option<Provider> {
        if !matches!(self.schema.as_str(), "peer" | "bitswap") {
            return None;
        }
        let peer: PeerId = parse_peer(self.id?.as_str()?)?;
        let own = |address: Multiaddr| match address.iter().last() {
            Some(Protocol::P2p(id)) => (id == peer).then_some(address),
            // Speaks HTTP and not Bitswap.
            Some(Protocol::Http | Protocol::Https) => None,
            _ => Some(address.with(Protocol::P2p(peer))),
        };
        let addresses = self.addresses.unwrap_or_default();
        let addresses = addresses.iter().filter_map(|value| value.as_str()?.parse().ok());
        Some(Provider {
            peer,
            addresses: addresses.filter_map(own).take(ADDRESSES_MAX).collect(),
        })
    }
}

/// Reads a peer ID in either of its forms.
fn parse_peer(text: &str) -> Option<PeerId> {
    if let Ok(peer) = text.parse() {
        return Some(peer);
    }
    let cid: Cid = text.parse().ok()?;
    let binary = cid.to_bytes();
    // Version 1, a codec of one byte, then the multihash that a peer ID is.
    (cid.version() == 1 && cid.codec() == LIBP2P_KEY).then(|| PeerId::from_bytes(&binary[2..]).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";

    fn record(json: &str) -> Option<Provider> {
        serde_json::from_str::<Record>(json).expect("json").provider()
    }

    #[test]
    fn peers_are_read_in_all_their_forms() {
        let peer: PeerId = PEER.parse().expect("valid");
        let cid = peer_cid(&peer);
        assert!(cid.starts_with("bafz"), "{cid}");
        for id in [PEER, &cid] {
            let found = record(&format!(
                r#"{{"Schema":"peer","ID":"{id}","Addrs":["/ip4/192.0.2.1/tcp/4001","/ip4/192.0.2.1/udp/4001/quic-v1/p2p/{PEER}",
                "/dns4/example.net/tcp/443/https", "/new-kind/7", 7],"Protocols":["transport-bitswap"],"x":1}}"#
            ));
            let found = found.expect("a peer");
            assert_eq!(found.peer, peer);
            let addresses: Vec<String> = found.addresses.iter().map(ToString::to_string).collect();
            assert_eq!(
                addresses,
                [
                    format!("/ip4/192.0.2.1/tcp/4001/p2p/{PEER}"),
                    format!("/ip4/192.0.2.1/udp/4001/quic-v1/p2p/{PEER}")
                ]
            );
        }
    }

    #[test]
    fn records_of_other_kinds_are_passed_over() {
        assert_eq!(record(r#"{"Schema":"new","ID":7}"#), None);
        assert_eq!(record(r#"{"Schema":"peer","ID":"x"}"#), None);
        assert_eq!(record(r#"{"Schema":"peer"}"#), None);
        assert_eq!(record("{}"), None);
        let bare = record(&format!(
            r#"{{"Schema":"bitswap","Protocol":"transport-bitswap","ID":"{PEER}","Addrs":null}}"#
        ));
        assert_eq!(bare.expect("a peer").addresses, []);
    }

    #[test]
    fn a_foreign_id_in_an_address_makes_it_worthless() {
        let other = libp2p_identity::Keypair::generate_ed25519().public().to_peer_id();
        let found = record(&format!(
            r#"{{"Schema":"peer","ID":"{PEER}","Addrs":["/ip4/192.0.2.1/tcp/1/p2p/{other}"]}}"#
        ));
        assert_eq!(found.expect("a peer").addresses, []);
    }

    #[test]
    fn no_more_than_a_few_routers() {
        let http = super::super::client(Duration::from_secs(1), "test").expect("client");
        let config = RoutingConfig {
            routers: vec!["https://example.net".into(); ROUTERS_MAX + 1],
            ..RoutingConfig::default()
        };
        assert!(Routers::new(http, &config).is_err());
    }
}
