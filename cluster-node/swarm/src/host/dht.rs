//! Looking for providers, and announcing.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use cid::Cid;
use libp2p::core::Endpoint;
use libp2p::kad::store::RecordStore as _;
use libp2p::kad::{Event, GetProvidersOk, Mode, QueryId, QueryResult, RecordKey};
use libp2p::swarm::{ConnectionId, NetworkBehaviour as _};
use libp2p::{PeerId, kad};
use multiaddr::Multiaddr;
use tokio::sync::{mpsc, oneshot};

use super::dial::peer_of;
use super::{ADDRESSES_MAX, Host};
use crate::error::DhtError;
use crate::fetch::Candidate;

/// Queries that run at a time. Each dials a few dozen peers.
pub(crate) const QUERIES_MAX: usize = 64;

/// Providers that wait to be taken by who looks for them.
const FOUND_MAX: usize = 32;

/// Providers after which a look-up ends. Popular content has thousands; nobody needs to ask them all.
const PROVIDERS_MAX: usize = 64;

/// Peers that are told of a provider: the replication of the DHT.
const REPLICATION: usize = 20;

/// How long to wait until the bootstrap peers are dialled again; twice as long each time.
const BOOTSTRAP_MIN: Duration = Duration::from_secs(10);
const BOOTSTRAP_MAX: Duration = Duration::from_secs(300);

/// Queries of the handle that run, and how finding into the DHT is getting on.
#[derive(Debug, Default)]
pub(super) struct Dht {
    finding: HashMap<QueryId, Finding>,
    providing: HashMap<QueryId, oneshot::Sender<Result<usize, DhtError>>>,
    bootstrapped: Option<(Instant, Duration)>,
}

#[derive(Debug)]
struct Finding {
    found: mpsc::Sender<Candidate>,
    seen: HashSet<PeerId>,
}

fn key_of(cid: &Cid) -> RecordKey {
    RecordKey::new(&cid.hash().to_bytes())
}

impl Host {
    pub(super) fn find_providers(&mut self, cid: &Cid) -> Result<mpsc::Receiver<Candidate>, DhtError> {
        let running = self.dht.finding.len() + self.dht.providing.len();
        let peers = self.dht_peers();
        let local = *self.swarm.local_peer_id();
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else {
            return Err(DhtError::Off);
        };
        if running >= QUERIES_MAX {
            return Err(DhtError::Busy(running));
        }
        let key = key_of(cid);
        let known = kad.store_mut().providers(&key);
        if peers == 0 && known.iter().all(|record| record.provider == local) {
            return Err(DhtError::NoPeers);
        }
        let (found, receiver) = mpsc::channel(FOUND_MAX);
        let seen = HashSet::from([local]);
        self.dht.finding.insert(kad.get_providers(key), Finding { found, seen });
        Ok(receiver)
    }

    pub(super) fn provide(&mut self, cid: &Cid, answer: oneshot::Sender<Result<usize, DhtError>>) {
        let running = self.dht.finding.len() + self.dht.providing.len();
        let peers = self.dht_peers();
        let refused = match self.swarm.behaviour_mut().kad.as_mut() {
            None => DhtError::Off,
            Some(_) if running >= QUERIES_MAX => DhtError::Busy(running),
            Some(kad) => match kad.start_providing(key_of(cid)) {
                // Who asks this node itself is told from now on, even when there is nobody to tell.
                Ok(query) if peers == 0 => {
                    if let Some(mut query) = kad.query_mut(&query) {
                        query.finish();
                    }
                    DhtError::NoPeers
                }
                Ok(query) => {
                    self.dht.providing.insert(query, answer);
                    return;
                }
                // Own records are always taken.
                Err(_) => DhtError::Off,
            },
        };
        let _ = answer.send(Err(refused));
    }

    pub(super) fn dht_event(&mut self, event: Event) {
        let Event::OutboundQueryProgressed {
            id,
            result,
            stats,
            step,
            ..
        } = event
        else {
            return;
        };
        match result {
            QueryResult::GetProviders(result) => {
                if let Ok(GetProvidersOk::FoundProviders { key, providers }) = result {
                    self.found(id, &key, providers);
                }
                if step.last {
                    self.dht.finding.remove(&id);
                }
            }
            QueryResult::StartProviding(result) => {
                if let Some(answer) = self.dht.providing.remove(&id) {
                    // One request to each of the peers that were asked for closer ones, and another to the closest.
                    let told = (stats.num_successes() as usize / 2).min(REPLICATION);
                    let _ = answer.send(match result {
                        Ok(_) if told > 0 => Ok(told),
                        Ok(_) | Err(_) => Err(DhtError::Timeout),
                    });
                }
            }
            _ => {}
        }
    }

    fn found(&mut self, id: QueryId, key: &RecordKey, providers: HashSet<PeerId>) {
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else {
            return;
        };
        let Some(finding) = self.dht.finding.get_mut(&id) else {
            return;
        };
        let kept = kad.store_mut().providers(key);
        for peer in providers {
            if !finding.seen.insert(peer) {
                continue;
            }
            let mut addresses = addresses_in(kad, peer);
            let records = kept.iter().filter(|record| record.provider == peer);
            addresses.extend(records.flat_map(|record| record.addresses.iter().cloned()));
            addresses.sort_unstable();
            addresses.dedup();
            addresses.truncate(ADDRESSES_MAX);
            // Who does not keep up misses some; there are more than enough.
            let _ = finding.found.try_send(Candidate { peer, addresses });
        }
        if (finding.found.is_closed() || finding.seen.len() > PROVIDERS_MAX)
            && let Some(mut query) = kad.query_mut(&id)
        {
            query.finish();
        }
    }

    /// Dials the bootstrap peers as long as nobody of the DHT is known.
    pub(super) fn bootstrap(&mut self, now: Instant) {
        if self.config.bootstrap.is_empty() || (self.dht_peers() > 0 && !self.peers.is_empty()) {
            return;
        }
        let pause = match self.dht.bootstrapped {
            Some((last, pause)) if now.saturating_duration_since(last) < pause => return,
            Some((_, pause)) => (2 * pause).min(BOOTSTRAP_MAX),
            None => BOOTSTRAP_MIN,
        };
        self.dht.bootstrapped = Some((now, pause));
        let mut candidates = HashMap::<PeerId, Vec<Multiaddr>>::new();
        for address in &self.config.bootstrap {
            if let Some(peer) = peer_of(address) {
                candidates.entry(peer).or_default().push(address.clone());
            }
        }
        for (peer, addresses) in candidates {
            if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
                for address in &addresses {
                    kad.add_address(&peer, address.clone());
                }
            }
            self.dial(Candidate { peer, addresses });
        }
    }

    pub(super) fn dht_server(&self) -> bool {
        let kad = self.swarm.behaviour().kad.as_ref();
        kad.is_some_and(|kad| kad.mode() == Mode::Server)
    }

    /// Peers in the routing table.
    pub(super) fn dht_peers(&mut self) -> usize {
        match self.swarm.behaviour_mut().kad.as_mut() {
            Some(kad) => kad.kbuckets().map(|bucket| bucket.num_entries()).sum(),
            None => 0,
        }
    }
}

/// The addresses of a peer that the routing table and the running queries know: just those at which it would be dialled.
fn addresses_in(kad: &mut kad::Behaviour<crate::records::Records>, peer: PeerId) -> Vec<Multiaddr> {
    let nobody = ConnectionId::new_unchecked(0);
    let addresses = kad.handle_pending_outbound_connection(nobody, Some(peer), &[], Endpoint::Dialer);
    addresses.unwrap_or_default()
}
