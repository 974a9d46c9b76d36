//! Which call is the cluster's, and which right a call takes when credentials are asked for.
//!
//! | calls | whose | right |
//! |---|---|---|
//! | `pin/add`, `pin/rm`, `pin/update`, `add` | the cluster's | pin |
//! | `pin/ls`, `repo/stat` | the cluster's | read |
//! | `repo/gc` | the cluster's | admin |
//! | `block/put`, `dag/put` with `pin=true`; `dag/import` unless `pin-roots=false` | the cluster's | pin |
//! | `block/put`, `dag/put`, `dag/import` without | the node's | pin |
//! | what only reads content or looks at the node ([`READS`]) | the node's | read |
//! | everything else, also what is not known here | the node's | admin |

use cluster_http::{Query, Scope};

/// Calls that change nothing and show nothing but content and how the node is. Content is found by its CID, and who knows
/// that may read it; what lists the CIDs of the node (`refs/local`, `bitswap/wantlist`) shows those of all namespaces, and
/// is not among them.
const READS: &[&str] = &[
    "bitswap/ledger",
    "bitswap/stat",
    "block/get",
    "block/stat",
    "cat",
    "cid/base32",
    "cid/bases",
    "cid/codecs",
    "cid/format",
    "cid/hashes",
    "commands",
    "dag/export",
    "dag/get",
    "dag/resolve",
    "dag/stat",
    "dht/query",
    "get",
    "id",
    "ls",
    "multibase/decode",
    "multibase/encode",
    "multibase/list",
    "name/resolve",
    "object/data",
    "object/get",
    "object/links",
    "object/stat",
    "ping",
    "refs",
    "repo/version",
    "resolve",
    "routing/findpeer",
    "routing/findprovs",
    "routing/get",
    "stats/bitswap",
    "stats/bw",
    "stats/dht",
    "stats/provide",
    "stats/repo",
    "swarm/addrs",
    "swarm/addrs/listen",
    "swarm/addrs/local",
    "swarm/peers",
    "version",
];

/// Calls that are turned into those of the cluster and take no argument in the path.
const TURNED: [&str; 6] = ["add", "block/put", "dag/import", "dag/put", "repo/gc", "repo/stat"];

/// What is done with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    PinAdd,
    PinRm,
    PinUpdate,
    PinLs,
    Add,
    RepoStat,
    RepoGc,
    BlockPut,
    DagPut,
    DagImport,
    /// The node takes blocks in, of which it is to pin none.
    Blocks,
    /// It is the node's.
    Pass,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub act: Act,
    pub scope: Scope,
    /// What the path names behind the call: a CID, or a path of content.
    pub argument: Option<String>,
}

/// Looks at a path, which must be clean and encoded as little as can be, and at the query.
pub fn look(path: &str, query: &Query) -> Look {
    let with = |act, scope| Look {
        act,
        scope,
        argument: None,
    };
    let Some(call) = path.strip_prefix("/api/v0/") else {
        return with(Act::Pass, Scope::Admin);
    };
    for (name, act, scope) in [
        ("pin/add", Act::PinAdd, Scope::Pin),
        ("pin/rm", Act::PinRm, Scope::Pin),
        ("pin/update", Act::PinUpdate, Scope::Pin),
        ("pin/ls", Act::PinLs, Scope::Read),
    ] {
        if let Some(rest) = call.strip_prefix(name)
            && (rest.is_empty() || rest.starts_with('/'))
        {
            let argument = argument(rest);
            return Look { act, scope, argument };
        }
    }
    // Kubo takes what follows a call in the path for an argument of it, so it is this call all the same.
    let call = TURNED
        .into_iter()
        .find(|name| call.strip_prefix(name).is_some_and(|rest| rest.starts_with('/')))
        .unwrap_or(call);
    let is = |key, default| is(query, key, default);
    match call {
        "add" => with(Act::Add, Scope::Pin),
        "repo/stat" => with(Act::RepoStat, Scope::Read),
        "repo/gc" => with(Act::RepoGc, Scope::Admin),
        "block/put" if is("pin", false) => with(Act::BlockPut, Scope::Pin),
        "dag/put" if is("pin", false) => with(Act::DagPut, Scope::Pin),
        "dag/import" if is("pin-roots", true) && !is_on(query, "local-only") => with(Act::DagImport, Scope::Pin),
        "block/put" | "dag/put" => with(Act::Pass, Scope::Pin),
        "dag/import" => with(Act::Blocks, Scope::Pin),
        call if READS.contains(&call) => with(Act::Pass, Scope::Read),
        _ => with(Act::Pass, Scope::Admin),
    }
}

/// `/CID` names a CID, `/ipfs/CID/path` a path.
fn argument(rest: &str) -> Option<String> {
    let rest = rest.strip_prefix('/').filter(|rest| !rest.is_empty())?;
    let text = percent_encoding::percent_decode_str(rest).decode_utf8_lossy();
    let is_path = ["ipfs/", "ipns/", "ipld/"].iter().any(|space| text.starts_with(space));
    Some(if is_path { format!("/{text}") } else { text.into_owned() })
}

/// A flag as Kubo reads it; what is neither true nor false is left to who answers the call.
fn is(query: &Query, key: &str, default: bool) -> bool {
    match query.bool(key) {
        Ok(Some(flag)) => flag,
        // `?pin` without a value is on, as in Kubo.
        Ok(None) => query.all(key).next().map_or(default, str::is_empty),
        // Whatever it is, it is not to go past the cluster.
        Err(_) => true,
    }
}

/// Whether a flag that takes a call past the cluster is on, beyond doubt.
fn is_on(query: &Query, key: &str) -> bool {
    query.bool(key).is_ok() && is(query, key, false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen(target: &str) -> (Act, Scope, Option<String>) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let Look { act, scope, argument } = look(path, &Query::parse(query));
        (act, scope, argument)
    }

    #[test]
    fn calls_of_the_cluster_are_known_in_every_form() {
        for (target, act, scope, argument) in [
            ("/api/v0/pin/add", Act::PinAdd, Scope::Pin, None),
            ("/api/v0/pin/add/Qm", Act::PinAdd, Scope::Pin, Some("Qm")),
            (
                "/api/v0/pin/rm/ipfs/Qm/a%20b",
                Act::PinRm,
                Scope::Pin,
                Some("/ipfs/Qm/a b"),
            ),
            ("/api/v0/pin/update", Act::PinUpdate, Scope::Pin, None),
            ("/api/v0/pin/ls/Qm", Act::PinLs, Scope::Read, Some("Qm")),
            ("/api/v0/add?pin=false", Act::Add, Scope::Pin, None),
            ("/api/v0/repo/stat", Act::RepoStat, Scope::Read, None),
            ("/api/v0/repo/gc", Act::RepoGc, Scope::Admin, None),
            ("/api/v0/block/put?pin=true", Act::BlockPut, Scope::Pin, None),
            ("/api/v0/dag/put?pin=1", Act::DagPut, Scope::Pin, None),
            ("/api/v0/dag/put?pin=", Act::DagPut, Scope::Pin, None),
            ("/api/v0/dag/put?pin=perhaps", Act::DagPut, Scope::Pin, None),
            ("/api/v0/dag/import", Act::DagImport, Scope::Pin, None),
            (
                "/api/v0/dag/import?local-only=perhaps",
                Act::DagImport,
                Scope::Pin,
                None,
            ),
            ("/api/v0/dag/import?local-only=false", Act::DagImport, Scope::Pin, None),
            ("/api/v0/dag/import?local-only=true", Act::Blocks, Scope::Pin, None),
            ("/api/v0/dag/import?local-only", Act::Blocks, Scope::Pin, None),
            ("/api/v0/dag/import?pin-roots=false", Act::Blocks, Scope::Pin, None),
            // An argument in the path.
            ("/api/v0/add/x", Act::Add, Scope::Pin, None),
            ("/api/v0/block/put/x?pin=true", Act::BlockPut, Scope::Pin, None),
            ("/api/v0/dag/import/x", Act::DagImport, Scope::Pin, None),
            ("/api/v0/repo/gc/x", Act::RepoGc, Scope::Admin, None),
        ] {
            assert_eq!(seen(target), (act, scope, argument.map(str::to_owned)), "{target}");
        }
    }

    #[test]
    fn all_else_is_the_nodes() {
        for (target, scope) in [
            ("/api/v0/block/put", Scope::Pin),
            ("/api/v0/dag/put?pin=false", Scope::Pin),
            ("/api/v0/version", Scope::Read),
            ("/api/v0/cat", Scope::Read),
            ("/api/v0/refs", Scope::Read),
            ("/api/v0/refs/local", Scope::Admin),
            ("/api/v0/bitswap/wantlist", Scope::Admin),
            ("/api/v0/repo/ls", Scope::Admin),
            ("/api/v0/files/rm", Scope::Admin),
            ("/api/v0/pin/verify", Scope::Admin),
            ("/api/v0/pin/adder", Scope::Admin),
            ("/api/v0/pin/remote/add", Scope::Admin),
            ("/api/v0/config/show", Scope::Admin),
            ("/api/v0/shutdown", Scope::Admin),
            ("/api/v0", Scope::Admin),
            ("/api/v1/pin/add", Scope::Admin),
            ("/webui", Scope::Admin),
            ("/", Scope::Admin),
            ("*", Scope::Admin),
        ] {
            assert_eq!(seen(target), (Act::Pass, scope, None), "{target}");
        }
    }

    proptest! {
        #[test]
        fn no_path_does_harm(path in ".{0,60}", query in ".{0,60}") {
            look(&path, &Query::parse(&query));
        }

        /// Whoever may only read reaches nothing that changes anything.
        #[test]
        fn readers_only_read(path in "/api/v0/[a-z/]{0,20}") {
            let Look { act, scope, .. } = look(&path, &Query::parse(""));
            if scope == Scope::Read {
                let call = path.trim_start_matches("/api/v0/");
                prop_assert!(READS.contains(&call) || matches!(act, Act::PinLs | Act::RepoStat));
            }
        }
    }
}
