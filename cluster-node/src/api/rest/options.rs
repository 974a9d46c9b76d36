//! Options of a pin, as IPFS Cluster writes them into a query.

use std::collections::BTreeMap;

use cluster_http::{Failure, Query, invalid};
use node_core::{Cid, EXPIRE_IN_MIN, NodeId, PeerId, PinMode, PinOptions, Replication, Timestamp};

use crate::api::failure::failure;
use crate::service::{Error, Members};

/// The code of a CID that names a libp2p key.
const LIBP2P_KEY: u64 = 0x72;

/// Options of a pin.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// What is recorded. Zeros in the replication stand for the cluster's default.
    pub options: PinOptions,
    /// The members to use first, as they were given; those that are none are passed over, as by IPFS Cluster, which knows
    /// them by what it last heard of them.
    pub user_allocations: Vec<PeerId>,
    /// Only echoed: nothing is sharded.
    pub shard_size: u64,
    /// The pin to take everything over from.
    pub update: Option<Cid>,
}

/// Reads the options of a query.
pub fn read(query: &Query, members: &Members, now: Timestamp) -> Result<Asked, Failure> {
    let update = query.get("pin-update").map(read_cid).transpose()?;
    let user_allocations = given(query, "user-allocations").map(read_peer);
    let user_allocations = user_allocations.collect::<Result<Vec<_>, _>>()?;
    let nodes = user_allocations.iter().filter_map(|id| members.find(*id)?.node);
    let mut distinct: Vec<NodeId> = Vec::new();
    for node in nodes {
        if !distinct.contains(&node) {
            distinct.push(node);
        }
    }
    let options = PinOptions {
        name: query.get("name").unwrap_or_default().to_owned(),
        mode: mode(query.get("mode")),
        replication: replication(query)?,
        nodes: distinct,
        metadata: metadata(query),
        origins: given(query, "origins").map(origin).collect(),
        expire_at: expiry(query, now)?,
        updated_from: None,
    };
    options.check().map_err(|invalid| failure(invalid.into()))?;
    options.check_expiry(now).map_err(|invalid| failure(invalid.into()))?;
    Ok(Asked {
        options,
        user_allocations,
        shard_size: query
            .uint("shard-size")
            .map_err(|_| Failure::bad("parameter shard_size is invalid"))?
            .unwrap_or_default(),
        update,
    })
}

/// The entries of a list that hold something.
pub fn given<'a>(query: &'a Query, key: &str) -> impl Iterator<Item = &'a str> {
    query.list(key).map(str::trim).filter(|entry| !entry.is_empty())
}

fn mode(word: Option<&str>) -> PinMode {
    match word {
        Some("direct") => PinMode::Direct,
        _ => PinMode::Recursive,
    }
}

fn replication(query: &Query) -> Result<Replication, Failure> {
    let factor = |name: &str| -> Result<i32, Failure> {
        let given = query.int(name)?.unwrap_or_default();
        i32::try_from(given).map_err(|_| invalid(name, &format!("{given} is out of range")))
    };
    let given = match query.get("replication") {
        Some(_) => {
            let both = factor("replication")?;
            Replication { min: both, max: both }
        }
        None => Replication {
            min: factor("replication-min")?,
            max: factor("replication-max")?,
        },
    };
    Ok(given)
}

/// The pairs of a query; one whose key is empty is passed over.
pub fn metadata(query: &Query) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (key, value) in query.with_prefix("meta-") {
        if !key.is_empty() {
            // The first counts, as for every other parameter.
            found.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    found
}

fn expiry(query: &Query, now: Timestamp) -> Result<Option<Timestamp>, Failure> {
    if let Some(at) = query.time("expire-at")? {
        // Go's zero time, which stands for never.
        return Ok(Some(at).filter(|at| *at != Timestamp::ZERO));
    }
    let Some(after) = query.duration("expire-in")? else {
        return Ok(None);
    };
    if after < EXPIRE_IN_MIN {
        return Err(invalid("expire-in", "it must be at least 1s"));
    }
    Ok(Some(now.plus(after)))
}

/// Go's multiaddrs know `/ipfs/` before a peer ID as another word for `/p2p/`.
pub fn origin(text: &str) -> String {
    text.replace("/ipfs/", "/p2p/")
}

/// Reads a bare CID.
pub fn read_cid(text: &str) -> Result<Cid, Failure> {
    text.parse()
        .map_err(|error| Failure::bad(format!("error decoding Cid: {error}")))
}

/// Reads a peer ID: a multihash in base58, or a CID of a libp2p key.
pub fn read_peer(text: &str) -> Result<PeerId, Failure> {
    let refused = |_| Failure::bad(format!("error decoding Peer ID: {}", Shown(text)));
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let cid: Cid = text.parse().map_err(|_| refused(()))?;
    if cid.version() != 1 || cid.codec() != LIBP2P_KEY {
        return Err(refused(()));
    }
    // Version and codec take a byte each; the multihash follows.
    let bytes = cid.to_bytes();
    PeerId::from_bytes(bytes.get(2..).unwrap_or_default()).map_err(|_| refused(()))
}

/// A value as it is told back: a megabyte of it helps nobody.
struct Shown<'a>(&'a str);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0.chars().take(80).collect::<String>())
    }
}

/// What no list can be narrowed by is a mistake, not a list without rows.
pub fn check_filter(name: &str, metadata: &BTreeMap<String, String>) -> Result<(), Failure> {
    let options = PinOptions {
        name: name.to_owned(),
        metadata: metadata.clone(),
        ..PinOptions::default()
    };
    options.check().map_err(|invalid| failure(Error::from(invalid)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
    const CID: &str = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
    const PEER: &str = "12D3KooWBhV9dp6GQkvFYdvCpwWkRxgnYC4UHPBGtKaqxbxn3Kmr";

    fn asked(query: &str) -> Result<Asked, Failure> {
        read(&Query::parse(query), &Members::default(), NOW)
    }

    fn refused(query: &str) -> String {
        let failure = asked(query).expect_err(query);
        assert_eq!(failure.status.as_u16(), 400, "{query}");
        failure.message
    }

    #[test]
    fn what_the_go_client_sends_by_default_is_the_default() {
        let sent = "mode=recursive&name=&replication-max=0&replication-min=0&shard-size=0&user-allocations=";
        assert_eq!(asked(sent).expect("valid"), asked("").expect("valid"));
        assert_eq!(asked("").expect("valid").options, PinOptions::default());
    }

    #[test]
    fn all_options_are_read() {
        let query = format!(
            "name=my+site&mode=direct&replication-min=2&replication-max=3&shard-size=7&user-allocations={PEER}\
             &expire-in=1h&meta-team=web&meta-=no&meta-team=second&pin-update={CID}\
             &origins=/ip4/1.2.3.4/tcp/4001/ipfs/{PEER}&wrap=x&unknown=1"
        );
        let asked = asked(&query).expect("valid");
        assert_eq!(asked.options.name, "my site");
        assert_eq!(asked.options.mode, PinMode::Direct);
        assert_eq!(asked.options.replication, Replication { min: 2, max: 3 });
        assert_eq!(
            asked.options.metadata,
            BTreeMap::from([("team".to_owned(), "web".to_owned())])
        );
        assert_eq!(asked.options.origins, [format!("/ip4/1.2.3.4/tcp/4001/p2p/{PEER}")]);
        assert_eq!(
            asked.options.expire_at,
            Some(NOW.plus(std::time::Duration::from_secs(3600)))
        );
        assert_eq!(asked.user_allocations, [PEER.parse().expect("an ID")]);
        assert_eq!((asked.shard_size, asked.update), (7, Some(CID.parse().expect("a CID"))));
    }

    #[test]
    fn one_factor_for_both_overrides_two() {
        let asked = asked("replication=5&replication-min=1&replication-max=2").expect("valid");
        assert_eq!(asked.options.replication, Replication { min: 5, max: 5 });
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        assert!(refused("replication-min=many").contains("parameter replication-min invalid"));
        assert!(refused("replication=99999999999").contains("replication"));
        assert_eq!(refused("shard-size=-1"), "parameter shard_size is invalid");
        assert!(refused("expire-in=500ms").contains("expire-in"));
        assert!(refused("expire-in=-5s").contains("expire-in"));
        assert!(refused("expire-at=yesterday").contains("expire-at"));
        assert!(refused("expire-at=2001-01-01T00:00:00Z").contains("expire_at"));
        assert!(refused("pin-update=abcd").starts_with("error decoding Cid: "));
        assert!(refused("user-allocations=me").starts_with("error decoding Peer ID: "));
        assert!(refused("origins=/ip4/1.2.3.4/tcp/1").contains("origins"));
        // An unknown mode is none of it.
        assert_eq!(asked("mode=sideways").expect("valid").options.mode, PinMode::Recursive);
    }

    #[test]
    fn peer_ids_are_read_in_both_forms() {
        let id: PeerId = PEER.parse().expect("an ID");
        let bytes = [&[1, 0x72][..], &id.to_bytes()].concat();
        let cid = Cid::from_bytes(&bytes).expect("a CID of a key");
        assert_eq!(read_peer(&cid.to_string()), Ok(id));
        assert_eq!(read_peer(PEER), Ok(id));
        assert!(read_peer(CID).is_err(), "no key");
    }

    proptest! {
        #[test]
        fn no_query_does_harm(query in "([a-z-]{0,12}=[ -~]{0,20}&){0,6}") {
            if let Err(failure) = asked(&query) {
                prop_assert_eq!(failure.status.as_u16(), 400);
            }
        }
    }
}
