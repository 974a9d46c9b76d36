//! Whether the cluster is well: a pure function from what is known to what an operator should do.

use std::collections::BTreeMap;
use std::time::Duration;

use node_core::pinset::Header;
use node_core::{PeerId, StorageNode, Timestamp};

use super::HeardNode;
use super::members::{PeerRole, PeerView};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Everything asked for is still done, but something needs attention.
    Degraded,
    /// Some of it can't be done now.
    Failed,
}

/// Something that is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// A peer's or node's name; empty for the cluster.
    pub subject: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// What is known.
pub struct Facts<'a> {
    /// Counters.
    pub header: &'a Header,
    /// Who leads.
    pub leader: Option<PeerId>,
    /// Whether the leader said what follows, or only this peer.
    pub asked_leader: bool,
    /// How many vote.
    pub voters: usize,
    /// All members.
    pub peers: &'a [PeerView],
    /// All storage nodes with what was heard of them, and how long ago.
    pub nodes: &'a [(StorageNode, Option<(HeardNode, Duration)>)],
    /// Why this peer's Raft has stopped.
    pub fatal: Option<&'a str>,
    /// When this is asked, by the clock that stamps admissions.
    pub now: Timestamp,
}

/// A peer that was admitted so recently is coming up: it reads the log or a snapshot before it first reports.
const JOINING_FOR: Duration = Duration::from_secs(60);

/// Free space below this share of the whole is worth a word.
const FREE_SHARE_LOW: f64 = 0.05;

/// What is wrong, worst first.
pub fn problems(facts: &Facts<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut say = |severity, subject: &str, message: String| {
        problems.push(Problem {
            severity,
            subject: subject.to_owned(),
            message,
        });
    };
    use Severity::{Degraded, Failed};

    if let Some(reason) = facts.fatal {
        say(
            Failed,
            "",
            format!("this peer's Raft has stopped: {reason}; see its log and restart it"),
        );
    }
    match facts.leader {
        None => {
            let needed = facts.voters / 2 + 1;
            let message = format!(
                "there is no leader, so nothing can be changed; start peers until at least {needed} of {} voters see \
                 each other",
                facts.voters
            );
            say(Failed, "", message);
        }
        Some(leader) if !facts.asked_leader => {
            let message = format!("the leader {leader} does not answer this peer; what is shown of others is unknown");
            say(Degraded, "", message);
        }
        Some(_) => {
            let voters = || facts.peers.iter().filter(|peer| peer.role == PeerRole::Voter);
            let alive = voters().filter(|peer| peer.reachable).count();
            for peer in facts.peers.iter().filter(|peer| !peer.reachable) {
                let since = facts.now.since(peer.peer.joined);
                if peer.role != PeerRole::Voter && peer.applied_index == 0 && since < JOINING_FOR {
                    let message = format!(
                        "the peer is joining: it was admitted {} s ago and has not reported yet",
                        since.as_secs()
                    );
                    say(Degraded, &peer.peer.name, message);
                    continue;
                }
                let margin = if peer.role == PeerRole::Voter && alive == facts.voters / 2 + 1 {
                    "; if one more voter is lost, nothing can be changed"
                } else {
                    ""
                };
                let message = format!(
                    "the peer does not answer{margin}; start it, or remove it with `cluster-ctl peer rm {}`",
                    peer.peer.id
                );
                say(Degraded, &peer.peer.name, message);
            }
        }
    }
    if facts.nodes.is_empty() {
        say(
            Failed,
            "",
            "there is no storage node; attach one with `cluster-ctl node add`".into(),
        );
    }
    for (node, heard) in facts.nodes {
        node_problems(node, heard.as_ref().map(|(heard, _)| heard), facts, &mut say);
    }
    for (first, second, daemon) in shared_daemons(facts.nodes) {
        let message = format!(
            "it has the same IPFS daemon as the node {first}, {daemon}: pins on both are held once; give one of them \
             another daemon, or take it out with `cluster-ctl node rm`"
        );
        say(Degraded, second, message);
    }
    if facts.header.unplaced > 0 {
        let message = format!(
            "{} CIDs lack nodes; `cluster-ctl pin ls --unplaced` lists them, `cluster-ctl pin explain CID` tells why",
            facts.header.unplaced
        );
        say(Degraded, "", message);
    }
    problems.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
    problems
}

/// Nodes whose daemons say that they are one. `node add` refuses that; a configuration, or a daemon that was moved, may
/// still lead to it.
fn shared_daemons(nodes: &[(StorageNode, Option<(HeardNode, Duration)>)]) -> Vec<(&str, &str, &str)> {
    let mut first_of = BTreeMap::new();
    let mut shared = Vec::new();
    for (node, heard) in nodes {
        let Some((heard, _)) = heard.as_ref().filter(|(heard, _)| !heard.ipfs_peer_id.is_empty()) else {
            continue;
        };
        let daemon = heard.ipfs_peer_id.as_str();
        let first = *first_of.entry(daemon).or_insert(node.name.as_str());
        if first != node.name {
            shared.push((first, node.name.as_str(), daemon));
        }
    }
    shared
}

fn node_problems(
    node: &StorageNode,
    heard: Option<&HeardNode>,
    facts: &Facts<'_>,
    say: &mut impl FnMut(Severity, &str, String),
) {
    use Severity::Degraded;
    let driver_lives = facts
        .peers
        .iter()
        .any(|peer| peer.peer.id == node.peer && peer.reachable);
    let Some(heard) = heard else {
        if driver_lives && facts.asked_leader {
            say(Degraded, &node.name, "nothing was heard of the node yet".into());
        }
        return;
    };
    if !heard.reachable && driver_lives {
        let error = if heard.error.is_empty() {
            "it does not answer"
        } else {
            &heard.error
        };
        say(
            Degraded,
            &node.name,
            format!("the IPFS daemon at {} is not reachable: {error}", node.api),
        );
    }
    if let (Some(free), Some(total)) = (heard.free_bytes, heard.total_bytes)
        && (free as f64) < total as f64 * FREE_SHARE_LOW
    {
        let share = 100.0 * free as f64 / (total as f64).max(1.0);
        say(
            Degraded,
            &node.name,
            format!("{share:.1} % of its storage is free; add space, or nodes"),
        );
    }
    let gave_up = heard.counts[4];
    if gave_up > 0 {
        let message = format!(
            "it gave up on {gave_up} pins; `cluster-ctl pin status --filter gave_up` tells why, `cluster-ctl pin \
             recover --node {}` tries again",
            node.name
        );
        say(Degraded, &node.name, message);
    }
}

#[cfg(test)]
mod tests {
    use node_core::{NodeId, NodeState, Peer, Timestamp};

    use super::*;

    fn peer_id() -> PeerId {
        "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5"
            .parse()
            .expect("valid")
    }

    fn peer(name: &str, reachable: bool) -> PeerView {
        PeerView {
            peer: Peer {
                id: peer_id(),
                raft_id: 1,
                name: name.into(),
                addresses: Vec::new(),
                api_address: String::new(),
                version: String::new(),
                joined: Timestamp::ZERO,
                removed: false,
            },
            role: PeerRole::Voter,
            leader: false,
            reachable,
            applied_index: 0,
        }
    }

    fn node() -> StorageNode {
        StorageNode {
            id: NodeId(1),
            name: "node-1".into(),
            peer: peer_id(),
            kind: "kubo".into(),
            api: "http://127.0.0.1:5001".into(),
            tags: BTreeMap::new(),
            weight: 1.0,
            state: NodeState::Active,
            auth_file: String::new(),
        }
    }

    fn check(peers: &[PeerView], heard: HeardNode, leader: bool) -> Vec<Problem> {
        problems(&Facts {
            header: &Header::default(),
            leader: leader.then(peer_id),
            asked_leader: leader,
            voters: 3,
            peers,
            nodes: &[(node(), Some((heard, Duration::ZERO)))],
            fatal: None,
            now: Timestamp::from_millis(100_000),
        })
    }

    #[test]
    fn all_well_is_silence() {
        let heard = HeardNode {
            reachable: true,
            ..HeardNode::default()
        };
        let peers = [peer("a", true), peer("b", true), peer("c", true)];
        assert_eq!(check(&peers, heard, true), []);
    }

    #[test]
    fn the_last_spare_voter_is_named() {
        let heard = HeardNode {
            reachable: true,
            ..HeardNode::default()
        };
        let found = check(
            &[peer("a", true), peer("b", true), peer("c", false)],
            heard.clone(),
            true,
        );
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].subject, "c");
        assert!(found[0].message.contains("one more voter"), "{}", found[0].message);
        let found = check(&[peer("a", true)], heard, false);
        assert_eq!(found[0].severity, Severity::Failed);
        assert!(found[0].message.contains("at least 2 of 3"), "{}", found[0].message);
    }

    #[test]
    fn a_peer_that_was_just_admitted_is_joining_and_not_lost() {
        let mut joining = peer("d", false);
        joining.role = PeerRole::Learner;
        joining.peer.joined = Timestamp::from_millis(98_000);
        let found = |joining: &PeerView| {
            let heard = HeardNode {
                reachable: true,
                ..HeardNode::default()
            };
            let peers = [peer("a", true), peer("b", true), peer("c", true), joining.clone()];
            let found = check(&peers, heard, true);
            assert_eq!(found.len(), 1, "{found:?}");
            found[0].message.clone()
        };
        assert!(found(&joining).contains("joining: it was admitted 2 s ago"));
        joining.peer.joined = Timestamp::from_millis(1_000);
        assert!(found(&joining).contains("start it, or remove it"));
        joining.peer.joined = Timestamp::from_millis(98_000);
        joining.applied_index = 7;
        assert!(
            found(&joining).contains("start it, or remove it"),
            "it was there and went away"
        );
    }

    #[test]
    fn a_dead_daemon_behind_a_living_peer_is_a_problem() {
        let heard = HeardNode {
            error: "connection refused".into(),
            counts: [0, 0, 0, 0, 2, 0],
            ..HeardNode::default()
        };
        let found = check(&[peer("a", true)], heard, true);
        assert!(found[0].message.contains("connection refused"), "{}", found[0].message);
        assert!(
            found[1].message.contains("recover --node node-1"),
            "{}",
            found[1].message
        );
    }

    #[test]
    fn two_nodes_with_one_daemon_are_a_problem() {
        let heard = HeardNode {
            reachable: true,
            ipfs_peer_id: "12D3KooWdaemon".into(),
            ..HeardNode::default()
        };
        let other = StorageNode {
            id: NodeId(2),
            name: "node-2".into(),
            ..node()
        };
        let nodes = [
            (node(), Some((heard.clone(), Duration::ZERO))),
            (other, Some((heard, Duration::ZERO))),
        ];
        let peers = [peer("a", true), peer("b", true), peer("c", true)];
        let found = problems(&Facts {
            header: &Header::default(),
            leader: Some(peer_id()),
            asked_leader: true,
            voters: 3,
            peers: &peers,
            nodes: &nodes,
            fatal: None,
            now: Timestamp::from_millis(100_000),
        });
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].subject, "node-2");
        assert!(found[0].message.contains("the node node-1"), "{}", found[0].message);
    }
}
