//! As the leader, lets go of content that was replaced, once what replaces it is held.
//!
//! Replacing a pin removes it in one step with adding the other; its content stays ([`pinset::kept`]) until as many nodes as
//! asked for hold the new one, wherever they are, or nobody wants that any more. While the new one can't be had, the old one
//! stays: the blocks that both share may be nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use node_core::command::{Op, Request};
use node_core::pinset;
use node_core::{Cid, Status};

use super::gather::PEER_TIMEOUT;
use super::proposer::WhenFull;
use super::{Error, NodeNames, Pins, StatusView};

/// How often the leader looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// CIDs that are looked at together: one call to each peer serves them all. At one look a second this is also what bounds how
/// much replaced content goes in a second; what waits for content that nobody has costs no more.
const CHUNK: usize = 1_000;

/// How long letting go of one may take. What was not let go of in time is decided anew at the next look.
const RELEASE_WAIT: Duration = Duration::from_secs(2);

/// Runs until it is dropped.
pub(super) async fn run(pins: Arc<Pins>) {
    let mut behind: Option<(Cid, Cid)> = None;
    loop {
        tokio::time::sleep(INTERVAL).await;
        if !pins.consensus.leader().is_self {
            behind = None;
            continue;
        }
        match pass(&pins, behind.as_ref()).await {
            Ok(next) => behind = next,
            Err(error) => tracing::debug!(%error, "what was replaced could not be let go of yet"),
        }
    }
}

/// Looks at the next ones, and says where to go on; none at the end.
async fn pass(pins: &Pins, behind: Option<&(Cid, Cid)>) -> Result<Option<(Cid, Cid)>, Error> {
    let state = pins.reads.stale();
    let kept = pinset::kept(&*state, behind, CHUNK)?;
    if kept.is_empty() {
        return Ok(None);
    }
    let next = kept.last().copied().filter(|_| kept.len() == CHUNK);
    let mut news: Vec<Cid> = kept.iter().map(|(_, by)| *by).collect();
    news.sort_unstable();
    news.dedup();
    let names = pins.names();
    let (mut silent, mut awaited) = (BTreeSet::new(), BTreeSet::new());
    let mut entries = pins.gather.all(&names, &news, PEER_TIMEOUT, &mut silent).await?;
    let mut seen = BTreeMap::new();
    for cid in news {
        if let Some(placement) = pinset::placement(&*state, &cid)? {
            seen.insert(cid, placement.revision);
            let rows = entries.remove(&cid).unwrap_or_default();
            let view = StatusView::fold(cid, String::new(), Some(placement), rows, &names.everyone(), &|node| {
                is_silent(&names, &silent, node)
            });
            if view.status != Status::Pinned && pinset::is_wanted(&*state, &cid)? {
                awaited.insert(cid);
            }
        }
    }
    let mut answers = Vec::new();
    for (cid, by) in kept.into_iter().filter(|(_, by)| !awaited.contains(by)) {
        tracing::debug!(pin = %cid, replaced_by = %by, "replaced content is let go of");
        let request = Request {
            id: None,
            op: Op::Release {
                cid,
                by,
                based_on: Some(seen.get(&by).copied().unwrap_or(0)),
            },
        };
        answers.push(pins.proposer.enqueue(request, RELEASE_WAIT, WhenFull::Wait).await?);
    }
    for answer in answers {
        answer.wait().await?;
    }
    Ok(next)
}

fn is_silent(names: &NodeNames, silent: &BTreeSet<node_core::PeerId>, node: node_core::NodeId) -> bool {
    names.driver(node).is_some_and(|peer| silent.contains(&peer))
}
