//! Which way the layers point (ARCHITECTURE.md, "The map"): an arrow that turns round fails here and not in review.
//!
//! Crates are held by what cargo itself says of them, the modules inside `cluster-node` by the names that they use.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// The workspace crates that each crate may name outside its tests. A crate that is missing here fails the test.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("cluster-proto", &[]),
    ("node-core", &[]),
    ("cluster-bitswap", &[]),
    ("cluster-storage", &["node-core"]),
    ("cluster-security", &["node-core"]),
    ("cluster-dag", &["node-core"]),
    ("cluster-blocks", &["node-core", "cluster-dag"]),
    ("cluster-swarm", &["node-core", "cluster-bitswap"]),
    ("cluster-content", &["node-core", "cluster-dag"]),
    (
        "cluster-gateway",
        &[
            "node-core",
            "cluster-dag",
            "cluster-content",
            "cluster-http",
            "cluster-ipfs",
        ],
    ),
    ("cluster-http", &["node-core"]),
    (
        "cluster-embedded",
        &[
            "node-core",
            "cluster-blocks",
            "cluster-content",
            "cluster-dag",
            "cluster-ipfs",
            "cluster-swarm",
        ],
    ),
    ("cluster-ipfs", &["node-core", "cluster-dag"]),
    ("cluster-kubo", &["node-core", "cluster-dag", "cluster-ipfs"]),
    ("cluster-worker", &["node-core", "cluster-storage", "cluster-ipfs"]),
    ("cluster-consensus", &["node-core", "cluster-proto", "cluster-storage"]),
    (
        "cluster-node",
        &[
            "node-core",
            "cluster-proto",
            "cluster-storage",
            "cluster-security",
            "cluster-ipfs",
            "cluster-kubo",
            "cluster-worker",
            "cluster-consensus",
            "cluster-content",
            "cluster-dag",
            "cluster-embedded",
            "cluster-gateway",
            "cluster-http",
        ],
    ),
    ("cluster-ctl", &["node-core", "cluster-proto"]),
    (
        "cluster-tests",
        &["node-core", "cluster-proto", "cluster-ipfs", "cluster-kubo"],
    ),
    ("cluster-fuzz", &["node-core", "cluster-bitswap", "cluster-dag"]),
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
    ("cluster-dag", DOERS),
    ("cluster-ipfs", DOERS),
    ("cluster-bitswap", DOERS),
    ("cluster-proto", &["openraft", "reqwest", "rocksdb"]),
    ("cluster-kubo", &["openraft", "rocksdb", "tonic"]),
    ("cluster-http", &["openraft", "reqwest", "rocksdb", "tonic"]),
    ("cluster-security", &["openraft", "reqwest", "rocksdb"]),
    ("cluster-worker", &["openraft", "tonic"]),
    ("cluster-ctl", &["openraft", "rocksdb"]),
    ("xtask", &["openraft", "reqwest", "rocksdb", "tokio", "tonic"]),
];

/// Crates that one crate alone may name, so that they can be replaced in one place.
const ONLY_NAMED_BY: &[(&str, &[&str])] = &[
    ("openraft", &["cluster-consensus"]),
    ("rocksdb", &["cluster-storage", "cluster-blocks"]),
    ("libp2p", &["cluster-swarm"]),
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

/// All crates that a crate is built with when it is built alone, tests left out. Asked of `cargo tree`: the resolution in
/// `cargo metadata` is that of the whole workspace, in which any crate may turn on features of what this one shares.
fn reached(package: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root())
        .args(["tree", "--locked", "--offline", "--package", package])
        .args(["--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo tree: {said}");
    let lines = String::from_utf8(output.stdout).expect("names are text");
    lines
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
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
    for (package, forbidden) in MUST_NOT_REACH {
        let reached = reached(package);
        assert!(reached.contains(*package), "{package} is not among {reached:?}");
        for crate_name in *forbidden {
            assert!(
                !reached.contains(*crate_name),
                "{package} reaches {crate_name}; `cargo tree -p {package} -e normal -i {crate_name}` shows how"
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
