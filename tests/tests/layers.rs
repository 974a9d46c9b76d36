//! Which way the layers point (ARCHITECTURE.md, "The map"): an arrow that turns round fails here and not in review.
//!
//! Crates are held by what cargo itself says of them, the modules inside `cluster-node` by the names that they use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

/// The workspace crates that each crate may name outside its tests. A crate that is missing here fails the test.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("cluster-proto", &[]),
    ("node-core", &[]),
    ("cluster-storage", &["node-core"]),
    ("cluster-security", &["node-core"]),
    ("cluster-kubo", &["node-core"]),
    ("cluster-worker", &["node-core", "cluster-storage", "cluster-kubo"]),
    ("cluster-consensus", &["node-core", "cluster-proto", "cluster-storage"]),
    (
        "cluster-node",
        &[
            "node-core",
            "cluster-proto",
            "cluster-storage",
            "cluster-security",
            "cluster-kubo",
            "cluster-worker",
            "cluster-consensus",
        ],
    ),
    ("cluster-ctl", &["node-core", "cluster-proto"]),
    ("cluster-tests", &["node-core", "cluster-proto", "cluster-kubo"]),
    ("xtask", &[]),
];

/// What does something: a crate that only decides must not even reach it through others.
const DOERS: &[&str] = &[
    "axum",
    "getrandom",
    "hyper",
    "mio",
    "openraft",
    "rand",
    "reqwest",
    "rocksdb",
    "rustls",
    "tokio",
    "tonic",
];

/// Crates that must never come into another, directly or through others.
const MUST_NOT_REACH: &[(&str, &[&str])] = &[
    ("node-core", DOERS),
    ("cluster-proto", &["openraft", "reqwest", "rocksdb"]),
    ("cluster-kubo", &["openraft", "rocksdb", "tonic"]),
    ("cluster-security", &["openraft", "reqwest", "rocksdb"]),
    ("cluster-worker", &["openraft", "tonic"]),
    ("cluster-ctl", &["openraft", "reqwest", "rocksdb"]),
    ("xtask", &["openraft", "reqwest", "rocksdb", "tokio", "tonic"]),
];

/// Crates that one crate alone may name, so that they can be replaced in one place.
const ONLY_NAMED_BY: &[(&str, &[&str])] = &[
    ("openraft", &["cluster-consensus"]),
    ("rocksdb", &["cluster-storage"]),
    ("figment", &["cluster-node"]),
];

/// Inside `cluster-node/src`: a module, and the modules that it must not name.
const MODULES: &[(&str, &[&str])] = &[
    ("config", &["api", "service", "node", "telemetry"]),
    ("telemetry", &["api", "service", "node"]),
    ("service", &["api", "node", "telemetry", "config"]),
    ("api", &["node", "telemetry", "config"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn metadata() -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml"));
    // The lock file is the repository's, and a test that needs the network is none.
    command.other_options(["--locked".to_owned(), "--offline".to_owned()]);
    command.exec().expect("cargo describes the workspace")
}

/// All crates that a crate is built with, tests left out.
fn reached(metadata: &Metadata, start: &PackageId) -> BTreeSet<String> {
    let resolve = metadata.resolve.as_ref().expect("cargo resolves");
    let nodes: BTreeMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        for dependency in &nodes[id].deps {
            let normal = |kind: &cargo_metadata::DepKindInfo| kind.kind == DependencyKind::Normal;
            if dependency.dep_kinds.iter().any(normal) {
                open.push(&dependency.pkg);
            }
        }
    }
    seen.into_iter().map(|id| metadata[id].name.to_string()).collect()
}

#[test]
fn crates_name_only_what_lies_below_them() {
    let metadata = metadata();
    let members: BTreeSet<String> = metadata
        .workspace_packages()
        .iter()
        .map(|package| package.name.to_string())
        .collect();
    for package in metadata.workspace_packages() {
        let name = package.name.to_string();
        let allowed = MAY_NAME
            .iter()
            .find(|(crate_name, _)| *crate_name == name)
            .unwrap_or_else(|| panic!("{name} is a new crate: say in this test what it may name"))
            .1;
        for dependency in &package.dependencies {
            let inside = members.contains(&dependency.name);
            if inside && dependency.kind != DependencyKind::Development {
                assert!(
                    allowed.contains(&dependency.name.as_str()),
                    "{name} names {}, which does not lie below it",
                    dependency.name
                );
            }
            let owner = ONLY_NAMED_BY.iter().find(|(owned, _)| *owned == dependency.name);
            if let Some((owned, owners)) = owner {
                assert!(
                    owners.contains(&name.as_str()),
                    "{name} names {owned}, which only {owners:?} may"
                );
            }
        }
    }
}

#[test]
fn what_decides_does_nothing() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        let reached = reached(&metadata, &package.id);
        let forbidden = MUST_NOT_REACH.iter().filter(|(name, _)| *name == package.name.as_str());
        for crate_name in forbidden.flat_map(|(_, crates)| *crates) {
            assert!(
                !reached.contains(*crate_name),
                "{} reaches {crate_name}; `cargo tree -p {} -i {crate_name}` shows how",
                package.name,
                package.name
            );
        }
    }
}

#[test]
fn modules_of_the_node_point_downwards() {
    for (module, forbidden) in MODULES {
        let folder = root().join("cluster-node/src").join(module);
        let mut open = vec![folder];
        let mut files = 0;
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(
                    path.read_dir()
                        .expect("a folder")
                        .map(|entry| entry.expect("an entry").path()),
                );
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a source file");
            files += 1;
            for other in *forbidden {
                assert!(
                    !text.contains(&format!("crate::{other}")),
                    "{} names crate::{other}; {module} lies below it",
                    path.display()
                );
            }
        }
        assert!(files > 0, "there is no module {module} any more: mend this test");
    }
}

#[test]
fn the_core_reads_no_clock_and_draws_no_lots() {
    let mut open = vec![root().join("node-core/src")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(
                path.read_dir()
                    .expect("a folder")
                    .map(|entry| entry.expect("an entry").path()),
            );
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a source file");
        // Iterating a hash map differs from peer to peer, and two peers that apply the same log would drift apart.
        for word in [
            "SystemTime",
            "Instant::now",
            "HashMap",
            "HashSet",
            "std::fs",
            "std::net",
            "std::env",
        ] {
            assert!(!text.contains(word), "{} uses {word}", path.display());
        }
    }
}
