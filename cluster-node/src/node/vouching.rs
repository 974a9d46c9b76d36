//! Asks the members that this peer knows about one that it does not know.
//!
//! A peer that was away is called, when it comes back, by whoever leads by then, and that may be one that joined
//! meanwhile. To refuse it would keep this peer from ever hearing of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster_proto::peer::v1::IsMemberRequest;
use cluster_proto::peer::v1::is_member_response::Membership;
use cluster_proto::peer::v1::peers_client::PeersClient;
use cluster_security::{PeerConnector, Purpose, Vouchers};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use node_core::PeerId;
use parking_lot::Mutex;
use rand::seq::IndexedRandom;
use tokio::sync::watch;

use super::channels::AddressBook;

/// The answer about a peer stands so long, whatever it is: whoever calls in between is not asked about again.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Peers asked about within that time. A peer that comes back meets a handful of new ones at most; whoever makes up keys
/// can cause no more questions than this.
const ASKED_MAX: usize = 32;

/// Members asked about one peer. Several of them may be down; the next time others are asked.
const ASK_MEMBERS: usize = 8;

/// How long a member may take to answer. It answers from memory.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// Who is asked, and what was asked lately.
pub struct Vouching {
    book: Arc<AddressBook>,
    connector: PeerConnector,
    asked: Mutex<BTreeMap<PeerId, Asked>>,
}

struct Asked {
    at: Instant,
    /// None until it is known.
    answer: watch::Receiver<Option<bool>>,
}

impl Vouching {
    /// Nothing asked yet.
    pub fn new(book: Arc<AddressBook>, connector: PeerConnector) -> Self {
        Self {
            book,
            connector,
            asked: Mutex::default(),
        }
    }

    /// The answer about a peer, which is asked for unless it was a moment ago. None when too much was asked already.
    fn ask(&self, stranger: PeerId) -> Option<watch::Receiver<Option<bool>>> {
        let mut asked = self.asked.lock();
        asked.retain(|_, asked| asked.at.elapsed() < ASK_AGAIN);
        if let Some(asked) = asked.get(&stranger) {
            return Some(asked.answer.clone());
        }
        if asked.len() >= ASKED_MAX {
            return None;
        }
        let mut members = self.book.members();
        members.retain(|member| *member != stranger);
        let members: Vec<_> = members
            .choose_multiple(&mut rand::rng(), ASK_MEMBERS)
            .copied()
            .collect();
        let (answered, answer) = watch::channel(None);
        let (book, connector) = (self.book.clone(), self.connector.clone());
        // In a task of its own: the caller may give up before the answer comes, and its next call then finds it.
        tokio::spawn(async move {
            let is_member = any_vouches(&connector, members, stranger).await;
            if is_member {
                book.vouch_for(stranger);
                tracing::info!(peer = %stranger, "other members say that a peer unknown here is one of them");
            }
            answered.send_replace(Some(is_member));
        });
        let entry = Asked {
            at: Instant::now(),
            answer: answer.clone(),
        };
        asked.insert(stranger, entry);
        Some(answer)
    }
}

impl Vouchers for Vouching {
    fn vouch(&self, peer: PeerId) -> std::pin::Pin<Box<dyn Future<Output = bool> + Send>> {
        let answer = self.ask(peer);
        Box::pin(async move {
            let Some(mut answer) = answer else { return false };
            let answer = answer.wait_for(Option::is_some).await;
            answer.is_ok_and(|answer| *answer == Some(true))
        })
    }
}

/// The first that knows the peer decides: one that does not may only be behind, as this peer is.
async fn any_vouches(connector: &PeerConnector, members: Vec<PeerId>, stranger: PeerId) -> bool {
    let mut answers: FuturesUnordered<_> = members
        .into_iter()
        .map(|member| ask_one(connector, member, stranger))
        .collect();
    while let Some(answer) = answers.next().await {
        match answer {
            Membership::Member => return true,
            Membership::Removed => return false,
            Membership::Stranger | Membership::Unspecified => {}
        }
    }
    false
}

async fn ask_one(connector: &PeerConnector, member: PeerId, stranger: PeerId) -> Membership {
    let channel = connector.channel(member, Purpose::Query);
    let mut call = tonic::Request::new(IsMemberRequest {
        peer_id: stranger.to_string(),
    });
    call.set_timeout(ANSWER_TIME);
    let mut client = PeersClient::new(channel);
    match tokio::time::timeout(ANSWER_TIME, client.is_member(call)).await {
        Ok(Ok(answer)) => answer.into_inner().membership(),
        Ok(Err(status)) => {
            tracing::debug!(peer = %member, error = %status, "a member did not say whether another peer is one");
            Membership::Unspecified
        }
        Err(_) => Membership::Unspecified,
    }
}
