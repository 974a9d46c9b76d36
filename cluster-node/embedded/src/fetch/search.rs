//! Looking for peers that have something, in the DHT and by delegated routing side by side.

use std::sync::Arc;

use cluster_swarm::{Candidate, DhtError, to_wire};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use node_core::Cid;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Network;

/// Candidates taken of one search. A swarm of the popular has thousands, and each is a dial.
pub(super) const CANDIDATES_MAX: usize = 32;

/// A search under way. What it finds comes through the channel, which ends when the search does.
pub(super) struct Search {
    pub(super) cid: Cid,
    pub(super) running: BoxFuture<'static, ()>,
    pub(super) found: mpsc::Receiver<Candidate>,
    pub(super) count: usize,
}

impl Search {
    pub(super) fn begin(network: &Arc<Network>, cid: Cid) -> Self {
        network.counters.searched();
        let (sender, found) = mpsc::channel(CANDIDATES_MAX);
        let network = Arc::clone(network);
        Self {
            cid,
            running: async move {
                let limit = network.config.search_timeout;
                // What was found until then counts.
                let _ = timeout(limit, async {
                    tokio::join!(
                        in_dht(&network, cid, sender.clone()),
                        at_routers(&network, cid, sender.clone())
                    );
                })
                .await;
            }
            .boxed(),
            found,
            count: 0,
        }
    }
}

async fn in_dht(network: &Network, cid: Cid, found: mpsc::Sender<Candidate>) {
    let Some(wire) = to_wire(&cid).filter(|_| network.dht) else {
        return;
    };
    match network.swarm.find_providers(wire).await {
        Ok(mut providers) => {
            while let Some(candidate) = providers.recv().await {
                if found.send(candidate).await.is_err() {
                    return;
                }
            }
        }
        Err(DhtError::Off | DhtError::NoPeers) => {}
        Err(error) => tracing::debug!(%cid, %error, "no providers from the DHT"),
    }
}

async fn at_routers(network: &Network, cid: Cid, found: mpsc::Sender<Candidate>) {
    let own = network.swarm.peer_id();
    let take = |provider: crate::http::Provider| {
        if provider.peer == own {
            return true;
        }
        let candidate = Candidate {
            peer: provider.peer,
            addresses: provider.addresses,
        };
        // As many as fit: the channel is as long as what is taken of a search.
        found.try_send(candidate).is_ok()
    };
    if let Err(error) = network.routers.providers(&cid, take).await {
        tracing::debug!(%cid, %error, "no providers by delegated routing");
    }
}

pub(super) enum SearchEvent {
    Found(Candidate),
    Ended,
}

/// The next thing that a search does; never, when there is none.
pub(super) async fn search_event(search: &mut Option<Search>) -> SearchEvent {
    let Some(search) = search else {
        return std::future::pending().await;
    };
    tokio::select! {
        biased;
        found = search.found.recv() => match found {
            Some(candidate) => SearchEvent::Found(candidate),
            None => SearchEvent::Ended,
        },
        () = &mut search.running => match search.found.try_recv() {
            // What it found last is taken first; the next call ends it.
            Ok(candidate) => {
                search.running = std::future::pending().boxed();
                SearchEvent::Found(candidate)
            }
            Err(_) => SearchEvent::Ended,
        },
    }
}

/// Who is found to have something, at most so many.
pub(crate) async fn providers(network: &Arc<Network>, cid: Cid, limit: usize) -> Vec<Candidate> {
    let mut search = Some(Search::begin(network, cid));
    let mut found: Vec<Candidate> = Vec::new();
    while found.len() < limit
        && let SearchEvent::Found(candidate) = search_event(&mut search).await
    {
        if !found.iter().any(|known| known.peer == candidate.peer) {
            found.push(candidate);
        }
    }
    found
}
