//! What members tell of themselves, and what is wrong with them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use cluster_http::{json, time};
use node_core::{StorageNode, Timestamp};
use serde_json::json as object;

use super::types::{Alert, Bandwidth, ConnectGraph, Metric};
use super::{Answer, Rest, Segment, nothing};
use crate::service::{HeardNode, MemberView, SILENT_AFTER, ipfs_node};

/// How long what was heard counts: the peer reports every second or so and is taken as silent after that.
const VALID_FOR: Duration = SILENT_AFTER;

/// The protocol whose bytes the node inside a peer counts.
const BITSWAP: &str = "/ipfs/bitswap/1.2.0";

/// `GET /health`
pub async fn alive() -> Answer {
    Ok(nothing())
}

/// `GET /health/graph`. Peers of Pinfleet all connect to each other, so who answers reaches all that answer. Which nodes the
/// IPFS daemons are connected to, nobody asks them.
pub async fn graph(State(rest): State<Arc<Rest>>) -> Answer {
    let own = rest.pins.directory.own();
    let members = rest.pins.members();
    let views = rest.pins.member_views().await;
    let reachable: Vec<&MemberView> = views.iter().filter(|view| view.reachable).collect();
    let mut graph = ConnectGraph {
        cluster_id: members
            .face_of(own)
            .map_or_else(|| own.to_string(), |face| face.text.clone()),
        ..ConnectGraph::default()
    };
    for view in &views {
        let id = view.member.text.clone();
        let others = reachable
            .iter()
            .filter(|_| view.reachable)
            .map(|other| other.member.text.clone());
        let others = others.filter(|other| *other != id).collect();
        graph.cluster_links.insert(id.clone(), others);
        graph.cluster_trust_links.insert(id.clone(), true);
        graph.id_to_peername.insert(id.clone(), view.member.name.clone());
        if let Some(node) = view.heard.as_ref().and_then(|(heard, _)| ipfs_node(heard)) {
            graph.ipfs_links.insert(node.id.clone(), Vec::new());
            graph.cluster_to_ipfs.insert(id, node.id);
        }
    }
    Ok(json(&graph))
}

/// `GET /health/alerts`: an alert for each member whose peer or node does not answer.
pub async fn alerts(State(rest): State<Arc<Rest>>) -> Answer {
    let now = rest.now();
    let views = rest.pins.member_views().await;
    let mut alerts: Vec<(Timestamp, Alert)> = views.iter().filter_map(|view| alert(view, now)).collect();
    // The newest first.
    alerts.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    let alerts: Vec<Alert> = alerts.into_iter().map(|(_, alert)| alert).collect();
    Ok(json(&alerts))
}

fn alert(view: &MemberView, now: Timestamp) -> Option<(Timestamp, Alert)> {
    view.member.node?;
    let answers = view.heard.as_ref().is_some_and(|(heard, _)| heard.reachable);
    if view.reachable && (answers || view.heard.is_none()) {
        return None;
    }
    // A peer that never reported was never heard of: then it has been silent since the cluster looked.
    let age = view.heard.as_ref().map_or(VALID_FOR, |(_, age)| *age);
    let received = Timestamp::from_millis(now.as_millis().saturating_sub(millis(age)));
    let at = received.plus(VALID_FOR).min(now);
    let value = view
        .heard
        .as_ref()
        .map(|(heard, _)| ping(view, heard))
        .unwrap_or_default();
    let metric = metric("ping", view, value, 0, received);
    let metric = Metric { valid: false, ..metric };
    Some((
        at,
        Alert {
            metric,
            triggered_at: time::rfc3339(at),
        },
    ))
}

/// `GET /health/bandwidth`: of the node inside this peer.
pub async fn bandwidth(State(rest): State<Arc<Rest>>) -> Answer {
    let mut protocols: BTreeMap<&str, Bandwidth> = BTreeMap::new();
    if let Some(operated) = rest.pins.nodes.operated()
        && let Ok(details) = operated.details().await
    {
        let network = details.network.unwrap_or_default();
        let bytes = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let bandwidth = Bandwidth {
            total_in: bytes(network.bytes_in),
            total_out: bytes(network.bytes_out),
            ..Bandwidth::default()
        };
        protocols.insert(BITSWAP, bandwidth);
    }
    Ok(json(&protocols))
}

/// `GET /monitor/metrics`
pub async fn names(State(rest): State<Arc<Rest>>) -> Answer {
    let mut names: Vec<String> = ["freespace", "numpin", "ping", "pinqueue"].map(str::to_owned).to_vec();
    let nodes = rest.pins.names();
    let tags = nodes.present().flat_map(|node| node.tags.keys());
    names.extend(tags.map(|tag| format!("tag:{tag}")));
    names.sort_unstable();
    names.dedup();
    Ok(json(&names))
}

/// `GET /monitor/metrics/{name}`: what each member that answers told last; nothing for a name that there is not.
pub async fn metrics(State(rest): State<Arc<Rest>>, Segment(name): Segment) -> Answer {
    let now = rest.now();
    let views = rest.pins.member_views().await;
    let nodes = rest.pins.names();
    let node_of = |view: &MemberView| nodes.present().find(|node| Some(node.id) == view.member.node).cloned();
    let told = views.iter().filter(|view| view.reachable);
    let told = told.filter_map(|view| one(&name, view, &node_of(view)?, now));
    Ok(json(&told.collect::<Vec<_>>()))
}

/// A metric of a member, by name.
fn one(name: &str, view: &MemberView, node: &StorageNode, now: Timestamp) -> Option<Metric> {
    let (heard, age) = view.heard.as_ref()?;
    if !heard.reachable || *age > VALID_FOR {
        return None;
    }
    let received = Timestamp::from_millis(now.as_millis().saturating_sub(millis(*age)));
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let [queued, _, pinned, ..] = heard.counts;
    let (value, weight) = match name {
        "ping" => (ping(view, heard), 0),
        "freespace" => {
            let free = heard.free_bytes?;
            (free.to_string(), number(free))
        }
        // Fewer are better.
        "numpin" => (pinned.to_string(), -number(pinned)),
        "pinqueue" => (queued.to_string(), -number(queued)),
        _ => {
            let tag = node.tags.get(name.strip_prefix("tag:")?)?;
            let metric = metric(name, view, tag.clone(), 0, received);
            return Some(Metric {
                partitionable: true,
                ..metric
            });
        }
    };
    Some(metric(name, view, value, weight, received))
}

fn metric(name: &str, view: &MemberView, value: String, weight: i64, received: Timestamp) -> Metric {
    let nanos = |at: Timestamp| {
        i64::try_from(at.as_millis())
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000)
    };
    Metric {
        name: name.to_owned(),
        peer: view.member.text.clone(),
        value,
        expire: nanos(received.plus(VALID_FOR)),
        valid: true,
        weight,
        partitionable: false,
        received_at: nanos(received),
    }
}

/// What a member says with each sign of life, as text.
fn ping(view: &MemberView, heard: &HeardNode) -> String {
    let node = ipfs_node(heard);
    let (id, addresses) = node.map_or_else(Default::default, |node| (node.id, node.addresses));
    object!({"peer_name": view.member.name, "ipfs_id": id, "ipfs_addresses": addresses}).to_string()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use node_core::{NodeId, NodeState};

    use super::*;
    use crate::service::Members;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn node() -> StorageNode {
        StorageNode {
            id: NodeId(1),
            name: "node-1".into(),
            peer: "12D3KooWBhV9dp6GQkvFYdvCpwWkRxgnYC4UHPBGtKaqxbxn3Kmr"
                .parse()
                .expect("an ID"),
            kind: "kubo".into(),
            api: String::new(),
            tags: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
            weight: 1.0,
            state: NodeState::Active,
            auth_file: String::new(),
        }
    }

    fn view(reachable: bool, heard: Option<HeardNode>, age: Duration) -> MemberView {
        MemberView {
            member: Members::of(&[node()], []).iter().next().expect("one").clone(),
            addresses: Vec::new(),
            reachable,
            heard: heard.map(|heard| (heard, age)),
        }
    }

    fn heard(reachable: bool) -> HeardNode {
        HeardNode {
            node: NodeId(1),
            reachable,
            free_bytes: Some(5),
            counts: [3, 0, 7, 0, 0, 0],
            ..HeardNode::default()
        }
    }

    #[test]
    fn metrics_are_what_was_heard_and_is_fresh() {
        let fresh = view(true, Some(heard(true)), Duration::from_secs(1));
        let one = |name: &str, view: &MemberView| super::one(name, view, &node(), NOW);
        let free = one("freespace", &fresh).expect("told");
        assert_eq!((free.value.as_str(), free.weight, free.valid), ("5", 5, true));
        assert_eq!(free.received_at, 1_699_999_999_000_000_000);
        assert!(free.expire > free.received_at);
        assert_eq!(one("pinqueue", &fresh).expect("told").weight, -3);
        assert_eq!(one("numpin", &fresh).expect("told").value, "7");
        let tag = one("tag:zone", &fresh).expect("told");
        assert!(tag.value == "a" && tag.partitionable);
        for name in ["tag:rack", "tag:", "cpu"] {
            assert_eq!(one(name, &fresh), None, "{name}");
        }
        assert_eq!(one("ping", &view(true, Some(heard(true)), 2 * VALID_FOR)), None);
        assert_eq!(one("ping", &view(true, Some(heard(false)), Duration::ZERO)), None);
    }

    #[test]
    fn who_does_not_answer_is_an_alert() {
        assert!(alert(&view(true, Some(heard(true)), Duration::ZERO), NOW).is_none());
        assert!(alert(&view(true, None, Duration::ZERO), NOW).is_none(), "not asked yet");
        let dead = alert(&view(true, Some(heard(false)), Duration::ZERO), NOW).expect("its daemon is down");
        assert!(!dead.1.metric.valid && dead.0 <= NOW);
        let silent = alert(&view(false, Some(heard(true)), Duration::from_secs(60)), NOW).expect("its peer is down");
        assert_eq!(silent.0, Timestamp::from_millis(NOW.as_millis() - 55_000));
        let written = serde_json::to_value(&silent.1).expect("JSON");
        assert_eq!(written["triggered_at"], "2023-11-14T22:12:25Z");
        assert_eq!(written["name"], "ping");
    }
}
