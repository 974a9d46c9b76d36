//! `info`: what else there is to know of a pin, in words.

use std::collections::BTreeMap;

use cluster_http::time;
use node_core::{NodeId, PinningStatus, Status, Timestamp};

use crate::service::{NodeEntry, NodeNames};

/// Nodes that are told of one by one.
const NODES_TOLD: usize = 5;

/// Characters of what a daemon said; a page of failed pins would else be megabytes of it.
const ERROR_CHARS: usize = 160;

/// What there is to tell. Keys are those that the specification suggests.
pub fn info(
    status: PinningStatus,
    entries: &[NodeEntry],
    nodes: &[NodeId],
    unplaced: Option<&str>,
    expires: Option<Timestamp>,
    names: &NodeNames,
) -> BTreeMap<&'static str, String> {
    let mut info = BTreeMap::new();
    info.insert("status_details", details(status, entries, nodes, unplaced, names));
    if let Some(at) = expires {
        info.insert("pinned_until", time::rfc3339(at));
    }
    let size = entries.iter().filter(|entry| entry.status == Status::Pinned);
    if let Some(bytes) = size.map(|entry| entry.bytes).max().filter(|bytes| *bytes > 0) {
        info.insert("dag_size", bytes.to_string());
    }
    info
}

fn details(
    status: PinningStatus,
    entries: &[NodeEntry],
    nodes: &[NodeId],
    unplaced: Option<&str>,
    names: &NodeNames,
) -> String {
    if let (PinningStatus::Queued | PinningStatus::Failed, Some(why)) = (status, unplaced) {
        return format!("no room for it yet: {}", cut(why));
    }
    let wanted: &[Status] = match status {
        PinningStatus::Pinned => {
            let held = entries.iter().filter(|entry| entry.status == Status::Pinned).count();
            return format!("held by {held} of {} nodes", nodes.len().max(held));
        }
        PinningStatus::Pinning => &[Status::Pinning],
        PinningStatus::Failed => &[Status::GaveUp],
        PinningStatus::Queued => &[Status::Retrying, Status::GaveUp, Status::Unreachable],
    };
    let told = entries.iter().filter(|entry| wanted.contains(&entry.status));
    let words: Vec<String> = told.take(NODES_TOLD).map(|entry| of_node(entry, names)).collect();
    match words.is_empty() {
        true => "waits for its turn".to_owned(),
        false => words.join("; "),
    }
}

fn of_node(entry: &NodeEntry, names: &NodeNames) -> String {
    let name = names.name(entry.node);
    match entry.status {
        Status::Pinning => format!("{name}: {} blocks, {} bytes so far", entry.blocks, entry.bytes),
        Status::GaveUp => format!("{name} gave up: {}", cut(&entry.error)),
        Status::Retrying => {
            let error = cut(&entry.error);
            format!("{name} tries again at {}: {error}", time::rfc3339(entry.next_attempt))
        }
        other => format!("{name}: {}", other.as_str()),
    }
}

fn cut(text: &str) -> String {
    let mut chars = text.chars();
    let beginning: String = chars.by_ref().take(ERROR_CHARS).collect();
    match chars.next() {
        Some(_) => beginning + "…",
        None => beginning,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(node: u32, status: Status, error: &str) -> NodeEntry {
        NodeEntry {
            error: error.into(),
            ..NodeEntry::bare(NodeId(node), status)
        }
    }

    fn told(status: PinningStatus, entries: &[NodeEntry], unplaced: Option<&str>) -> String {
        let nodes: Vec<NodeId> = entries.iter().map(|entry| entry.node).collect();
        let info = info(status, entries, &nodes, unplaced, None, &NodeNames::default());
        info["status_details"].clone()
    }

    #[test]
    fn it_says_why() {
        let long = "x".repeat(10_000);
        let entries = [
            entry(1, Status::Pinned, ""),
            entry(2, Status::GaveUp, &long),
            entry(3, Status::Retrying, "no provider"),
        ];
        assert_eq!(told(PinningStatus::Pinned, &entries, None), "held by 1 of 3 nodes");
        let failed = told(PinningStatus::Failed, &entries, None);
        assert!(failed.starts_with("n2 gave up: xxx") && failed.len() < 200, "{failed}");
        assert!(told(PinningStatus::Queued, &entries, None).contains("n3 tries again at"));
        assert_eq!(told(PinningStatus::Queued, &[], None), "waits for its turn");
        assert_eq!(
            told(PinningStatus::Queued, &[], Some("all full")),
            "no room for it yet: all full"
        );
    }

    #[test]
    fn it_says_until_when() {
        let until = Some(Timestamp::from_millis(1_778_494_830_500));
        let info = info(PinningStatus::Queued, &[], &[], None, until, &NodeNames::default());
        assert_eq!(info["pinned_until"], "2026-05-11T10:20:30.5Z");
    }
}
