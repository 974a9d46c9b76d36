//! The files of `deploy/` against the code: a dashboard that shows a metric that nobody has shows nothing, and says nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_node::telemetry::{EmbeddedNumbers, Metrics, RocksDbSizes};
use node_core::{ErrorClass, Status};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn files() -> Vec<(String, String)> {
    let (mut open, mut files) = (vec![deploy()], Vec::new());
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(
                fs::read_dir(&path)
                    .expect("a folder")
                    .map(|entry| entry.expect("an entry").path()),
            );
        } else {
            let text = fs::read_to_string(&path).expect("a text");
            files.push((path.display().to_string(), text));
        }
    }
    assert!(files.len() > 10, "the files of deploy/ were not found");
    files
}

/// Words of letters, digits and `_` that begin so.
fn words<'a>(text: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(start).filter_map(move |(at, _)| {
        let before = text[..at].chars().next_back();
        let whole = before.is_none_or(|c| !c.is_alphanumeric() && c != '_');
        let end = text[at..].find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        whole.then(|| &text[at..end.map_or(text.len(), |end| at + end)])
    })
}

/// The series of a peer on which everything has happened once.
fn series() -> BTreeSet<String> {
    let metrics = Metrics::new("peer", "0");
    metrics.set_queue("node", Status::Queued, 1);
    metrics.set_oldest_queued("node", Duration::from_secs(1));
    metrics.set_node_reachable("node", true);
    metrics.attempt("node", "pin", Err(ErrorClass::Stalled));
    metrics.gave_up("node");
    metrics.kubo_call("node", "pin_add", Ok(()), Duration::from_secs(1));
    metrics.raft_committed(Duration::from_millis(1), 1);
    metrics.raft_proposal("committed", 1);
    metrics.set_raft(1, true, 1, 1);
    metrics.set_raft_queue_bytes(1);
    metrics.snapshots(1, 1);
    metrics.set_rocksdb("log", RocksDbSizes::default());
    metrics.set_embedded("node", &EmbeddedNumbers::default());
    metrics.access_refused("missing");
    metrics.http_answered("rest", 200, Duration::from_millis(1));
    metrics.set_pins(1);
    let text = metrics.encode().expect("encoded");
    let names = text.lines().filter(|line| !line.starts_with('#'));
    names
        .filter_map(|line| line.split(['{', ' ']).next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_metric_that_is_named_exists() {
    let series = series();
    // Counted by the layer around the API, which has its own tests.
    let of_requests = [
        "pinfleet_grpc_requests_total",
        "pinfleet_grpc_request_seconds_bucket",
        "pinfleet_grpc_request_seconds_count",
    ];
    let mut seen = 0;
    for (file, text) in files() {
        for name in words(&text, "pinfleet_") {
            seen += 1;
            let known = |name: &str| series.contains(name) || of_requests.contains(&name);
            // A runbook names a distribution as a whole.
            let whole = known(&format!("{name}_count"));
            assert!(known(name) || whole, "{file}: no peer has the metric {name}");
        }
    }
    assert!(
        seen > 30,
        "only {seen} metrics are named; were they looked for rightly?"
    );
}

#[test]
fn every_option_that_is_set_exists() {
    let default = include_str!("../pinfleet.toml");
    let mut options = BTreeSet::new();
    let mut section = "";
    for line in default.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
        } else if let Some((key, _)) = line.strip_prefix('#').and_then(|rest| rest.split_once(" = ")) {
            options.insert(format!("PINFLEET_{}__{}", section.to_uppercase(), key.to_uppercase()));
        }
    }
    let of_programs = [
        "PINFLEET_DIR",
        "PINFLEET_API",
        "PINFLEET_NAME",
        "PINFLEET_JOIN_TOKEN_FILE",
    ];
    for (file, text) in files() {
        for name in words(&text, "PINFLEET_") {
            let known = options.contains(name) || of_programs.contains(&name);
            assert!(known, "{file}: there is no option {name}");
        }
    }
}

#[test]
fn every_option_that_the_guide_for_moving_names_exists() {
    let default = include_str!("../pinfleet.toml");
    let mut options = BTreeSet::new();
    let mut sections = BTreeSet::new();
    let mut section = "";
    for line in default.lines() {
        // Of a section that there may be many of, all of it is an example.
        let line = line.strip_prefix('#').unwrap_or(line);
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.trim_matches(['[', ']']);
            sections.insert(section);
        } else if let Some((key, _)) = line.split_once(" = ") {
            options.insert(format!("{section}.{key}"));
        }
    }
    let guide = fs::read_to_string(deploy().join("runbooks/migrate.md")).expect("the guide");
    let ours = guide.lines().filter_map(|line| line.split('|').nth(2));
    let mut seen = 0;
    for name in ours.flat_map(|cell| cell.split('`').skip(1).step_by(2)) {
        let section = name.split_once('.').map_or("", |(section, _)| section);
        if sections.contains(section) {
            seen += 1;
            assert!(options.contains(name), "there is no option {name}");
        }
    }
    assert!(
        seen > 30,
        "only {seen} options are named; were they looked for rightly?"
    );
}

#[test]
fn every_alert_has_its_page() {
    let alerts = fs::read_to_string(deploy().join("prometheus/alerts.yml")).expect("the alerts");
    let pages: Vec<_> = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("runbook: "))
        .collect();
    assert_eq!(
        pages.len(),
        alerts.matches("- alert:").count(),
        "an alert names no page"
    );
    for page in pages {
        assert!(deploy().join("runbooks").join(page).is_file(), "{page} is missing");
    }
}

fn unit() -> String {
    fs::read_to_string(deploy().join("systemd/pinfleet.service")).expect("the unit")
}

/// The value of an option of the unit, which it sets once.
fn of_unit<'a>(unit: &'a str, option: &str) -> &'a str {
    let mut set = unit.lines().filter_map(|line| line.strip_prefix(option));
    let value = set.next().expect("the unit sets it");
    assert!(set.next().is_none(), "{option} is set more than once");
    value
}

/// Without the last one libp2p finds no addresses, and an embedded node that listens at all of them does not start.
#[test]
fn the_unit_allows_the_sockets_that_a_peer_opens() {
    let unit = unit();
    let allowed: BTreeSet<&str> = of_unit(&unit, "RestrictAddressFamilies=").split(' ').collect();
    assert_eq!(
        allowed,
        BTreeSet::from(["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"])
    );
}

#[test]
fn the_socket_that_pages_and_helps_name_is_that_of_the_unit() {
    let unit = unit();
    let socket = format!("{}/admin.sock", of_unit(&unit, "Environment=PINFLEET_DIR="));
    let mut files = files();
    let help = deploy().join("../ctl/src/cli/access.rs");
    files.push((help.display().to_string(), fs::read_to_string(&help).expect("a text")));
    let mut seen = 0;
    for (file, text) in files {
        for (at, _) in text.match_indices("unix:/") {
            seen += 1;
            let named = text[at..].split_whitespace().next().unwrap_or_default();
            assert_eq!(named, format!("unix:{socket}"), "{file}");
        }
    }
    assert!(seen >= 2, "only {seen} name it; were they looked for rightly?");
}

/// Otherwise all daemons would be driven by the peer that was asked, and stop with it.
#[test]
fn each_daemon_of_the_compose_file_has_a_peer_of_its_own() {
    let compose = fs::read_to_string(deploy().join("compose/compose.yaml")).expect("the compose file");
    let compose = compose.replace("\\\n", " ");
    let added: Vec<&str> = compose.lines().filter(|line| line.contains("node add")).collect();
    assert_eq!(added.len(), 1, "{added:?}");
    assert!(added[0].contains(" --peer peer-$$number "), "{}", added[0]);
    for number in 1..=3 {
        for name in ["peer", "kubo"] {
            assert!(compose.contains(&format!("\n  {name}-{number}:")), "{name}-{number}");
        }
    }
}
