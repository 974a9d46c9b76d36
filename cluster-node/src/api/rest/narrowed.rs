//! What narrows a list, beyond what IPFS Cluster knows: `name`, `meta-KEY`, `peer`, `status`, `created-after`,
//! `created-before`, and pages by `limit` and `cursor`. All of them are absent in what its clients send.

use cluster_http::{Failure, Query, invalid};

use super::options::{check_filter, metadata, read_peer};
use super::tracker::Filter;
use crate::service::{Members, PinFilter};

/// Items of a page at most: one is collected before it is answered, because its head says where the next begins.
pub const PAGE_MAX: u64 = 1_000;

/// What narrows a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Narrowed {
    /// Which pins.
    pub filter: PinFilter,
    /// Which states.
    pub states: Filter,
    /// A page of so many; none = everything.
    pub limit: Option<u64>,
    /// Behind this place.
    pub cursor: String,
    /// No pin can fit: a peer was named that drives no node.
    pub is_empty: bool,
}

impl Narrowed {
    /// Reads it.
    pub fn read(query: &Query, members: &Members) -> Result<Self, Failure> {
        let metadata = metadata(query);
        let name = query.get("name").unwrap_or_default();
        check_filter(name, &metadata)?;
        let limit = query.uint("limit")?;
        if let Some(limit) = limit.filter(|limit| !(1..=PAGE_MAX).contains(limit)) {
            return Err(invalid("limit", &format!("{limit} is not 1 to {PAGE_MAX}")));
        }
        let peer = query.get("peer").map(read_peer).transpose()?;
        let member = peer.map(|id| {
            let known = members.find(id);
            known.ok_or_else(|| invalid("peer", &format!("{id} is no peer of this cluster")))
        });
        let member = member.transpose()?;
        Ok(Self {
            filter: PinFilter {
                name_prefix: name.to_owned(),
                metadata,
                node: member.and_then(|member| member.node),
                created_after: query.time("created-after")?,
                created_before: query.time("created-before")?,
                ..PinFilter::default()
            },
            states: query.get("status").map(Filter::read).transpose()?.unwrap_or_default(),
            limit,
            cursor: query.get("cursor").unwrap_or_default().to_owned(),
            is_empty: member.is_some_and(|member| member.node.is_none()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Narrowed, Failure> {
        Narrowed::read(&Query::parse(query), &Members::default())
    }

    #[test]
    fn what_clients_send_narrows_nothing() {
        let plain = read("local=false&filter=all&cids=&wrap=1").expect("valid");
        assert!(plain.filter.is_empty() && plain.states.is_all() && plain.limit.is_none() && !plain.is_empty);
    }

    #[test]
    fn conditions_are_read() {
        let narrowed = read("name=si&meta-team=web&status=pinned&limit=10&created-after=2026-01-01T00:00:00Z");
        let narrowed = narrowed.expect("valid");
        assert_eq!(narrowed.filter.name_prefix, "si");
        assert_eq!(narrowed.filter.metadata.get("team").map(String::as_str), Some("web"));
        assert!(narrowed.filter.created_after.is_some() && narrowed.limit == Some(10));
        assert_eq!(narrowed.states, Filter::read("pinned").expect("valid"));
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        for (query, named) in [
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("limit=x", "limit"),
            ("created-before=now", "created-before"),
            ("peer=me", "Peer ID"),
            ("peer=12D3KooWBhV9dp6GQkvFYdvCpwWkRxgnYC4UHPBGtKaqxbxn3Kmr", "peer"),
            ("status=unknown", "filter"),
        ] {
            let failure = read(query).expect_err(query);
            assert!(
                failure.status == 400 && failure.message.contains(named),
                "{query}: {failure}"
            );
        }
    }
}
