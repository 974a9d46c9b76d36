//! The other embedded nodes of the cluster: connected to at all times, and asked first.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cluster_swarm::{Candidate, Multiaddr, PeerId};
use futures::StreamExt as _;
use node_core::Invalid;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::fetch::candidate;
use crate::inner::Inner;

/// Addresses of fellows taken: a cluster has up to a thousand nodes, some of them reachable in two ways.
pub const FELLOWS_MAX: usize = 2_048;

/// Fellows that a fetch asks. The network dials no more candidates of a fetch; all others that are connected are asked
/// for its first block too.
const ASKED_MAX: usize = 64;

/// Connections begun at a time.
const CONNECTS_MAX: usize = 8;

/// How often lost connections are made anew.
const EVERY: Duration = Duration::from_secs(10);

/// How a fellow does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FellowReport {
    /// Who.
    pub peer: PeerId,
    /// Whether the last attempt to be connected succeeded.
    pub connected: bool,
    /// Why not; empty when it did.
    pub problem: String,
}

/// Where it is, and how the last attempt to be connected ended; none before the first.
type Fellow = (Candidate, Option<Result<(), String>>);

#[derive(Default)]
pub(crate) struct Fellows {
    state: Mutex<HashMap<PeerId, Fellow>>,
    changed: Notify,
}

impl Fellows {
    pub(crate) fn set(&self, inner: &Inner, addresses: &[Multiaddr]) -> Result<(), Invalid> {
        if addresses.len() > FELLOWS_MAX {
            let given = format!("{} addresses", addresses.len());
            return Err(Invalid::new("fellows", given, "give at most 2048"));
        }
        let own = inner.network.swarm.peer_id();
        let mut fellows: HashMap<PeerId, Candidate> = HashMap::new();
        for address in addresses {
            let Some(one) = candidate(address) else {
                let remedy = "end each address in /p2p/PEER_ID";
                return Err(Invalid::new("fellows", address.to_string(), remedy));
            };
            // The list is the same for the whole cluster.
            if one.peer == own {
                continue;
            }
            match fellows.get_mut(&one.peer) {
                Some(known) => known.addresses.extend(one.addresses),
                None => {
                    fellows.insert(one.peer, one);
                }
            }
        }
        *inner.network.fellows.lock() = fellows.values().take(ASKED_MAX).cloned().collect();
        let mut state = self.state.lock();
        let before = std::mem::take(&mut *state);
        *state = fellows
            .into_iter()
            .map(|(peer, candidate)| {
                let seen = before.get(&peer).and_then(|(_, seen)| seen.clone());
                (peer, (candidate, seen))
            })
            .collect();
        self.changed.notify_one();
        Ok(())
    }

    pub(crate) fn report(&self) -> Vec<FellowReport> {
        let state = self.state.lock();
        let mut report: Vec<FellowReport> = state
            .iter()
            .map(|(peer, (_, seen))| FellowReport {
                peer: *peer,
                connected: matches!(seen, Some(Ok(()))),
                problem: match seen {
                    Some(Ok(())) => String::new(),
                    Some(Err(reason)) => reason.clone(),
                    None => "not tried yet".into(),
                },
            })
            .collect();
        report.sort_unstable_by_key(|fellow| fellow.peer);
        report
    }
}

/// Keeps connected until the node ends.
pub(crate) async fn run(inner: Arc<Inner>) {
    loop {
        let all: Vec<Candidate> = {
            let state = inner.fellows.state.lock();
            state.values().map(|(candidate, _)| candidate.clone()).collect()
        };
        let connecting = futures::stream::iter(all).for_each_concurrent(CONNECTS_MAX, |fellow| connect(&inner, fellow));
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = connecting => {}
        }
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = inner.fellows.changed.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn connect(inner: &Inner, fellow: Candidate) {
    let peer = fellow.peer;
    let limit = inner.config.fetch.connect_timeout;
    let result = match timeout(limit, inner.network.swarm.connect_to(fellow)).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no connection within {limit:?}")),
    };
    if let Some((_, seen)) = inner.fellows.state.lock().get_mut(&peer) {
        // Once, and not every few seconds.
        if let Err(reason) = &result
            && !matches!(seen, Some(Err(_)))
        {
            tracing::warn!(%peer, reason, "a node of the cluster can't be reached");
        }
        *seen = Some(result);
    }
}
