use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn sets(list: &[&str]) -> Vec<String> {
    list.iter().map(|set| (*set).to_owned()).collect()
}

struct File {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

fn file(text: &str) -> File {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pinfleet.toml");
    std::fs::write(&path, text).unwrap();
    File { path, _folder: folder }
}

fn problems(text: &str) -> Vec<Problem> {
    let file = file(text);
    match Loaded::read(Some(&file.path), [], &[]) {
        Err(Error::Problems(list)) => list,
        other => panic!("{text}: {other:?}"),
    }
}

/// The only problem, as text.
fn problem(text: &str) -> String {
    let list = problems(text);
    assert_eq!(list.len(), 1, "{list:?}");
    list[0].to_string()
}

/// The file in the repository is the one that the tables make: each option once, with the defaults of the code.
/// After a change of an option: `cluster-node config default > cluster-node/pinfleet.toml`.
#[test]
fn the_commented_default_file_is_up_to_date() {
    let kept = include_str!("../../pinfleet.toml");
    let made = default_file(None, None);
    assert!(
        kept == made,
        "pinfleet.toml differs from the tables of options; make it anew, see this test"
    );
    for section in SECTIONS {
        for option in section.options {
            let line = format!("\n#{} = ", option.key);
            assert!(kept.contains(&line), "{}.{}", section.name, option.key);
        }
    }
}

#[test]
fn the_default_file_uncommented_means_the_defaults() {
    let text: String = default_file(None, None)
        .lines()
        .map(|line| {
            let option = line
                .strip_prefix('#')
                .filter(|rest| !rest.starts_with(' ') && !rest.is_empty());
            format!("{}\n", option.unwrap_or(line))
        })
        .collect();
    let file = file(&text);
    let mut read = Loaded::read(Some(&file.path), [], &[]).unwrap().config;
    assert_eq!(read.nodes.len(), 1);
    assert_eq!(read.nodes[0].weight, 1.0);
    assert_eq!(read.nodes[0].pins_per_second, Some(100.0));
    read.nodes.clear();
    assert_eq!(read, Config::default());
}

#[test]
fn options_are_named_once_and_documented() {
    for section in SECTIONS {
        let mut keys = BTreeSet::new();
        for option in section.options {
            assert!(keys.insert(option.key), "{}.{} stands twice", section.name, option.key);
            assert!(option.doc.ends_with('.') && option.doc.len() > 10, "{}", option.key);
            if let Some(default) = option.default {
                assert!(
                    option.kind.accepts(&source::literal(default)),
                    "{}.{} does not allow its own default {default}",
                    section.name,
                    option.key
                );
            }
            assert!(!option.kind.allowed().is_empty());
        }
    }
}

#[test]
fn defaults() {
    let config = Config::default();
    assert_eq!(config.peer.listen.to_string(), "127.0.0.1:9096");
    assert_eq!(config.raft.voters_max, 5);
    assert_eq!(config.raft.voter_lost_after, Duration::from_secs(300));
    assert_eq!(config.api.message_bytes_max, 4 << 20);
    assert_eq!(config.worker.give_up_after, Duration::from_secs(7 * 24 * 3600));
    assert_eq!(config.replication.factors(), node_core::Replication { min: 1, max: 2 });
    assert!(!config.peer.name.is_empty());
    assert!(config.nodes.is_empty());
    assert!(config.warnings().is_empty());
}

#[test]
fn later_sources_win() {
    let file = file("[raft]\nheartbeat = \"60ms\"\nvoters_max = 3\nbatch_linger = \"0\"\n");
    let env = env(&[
        ("PINFLEET_RAFT__VOTERS_MAX", "4"),
        ("PINFLEET_PEER__ADVERTISE", "a:1,b:2"),
        ("PINFLEET_PEER__NAME", "007"),
        ("PINFLEET_DIR", "/somewhere"),
        ("OTHER_RAFT__VOTERS_MAX", "9"),
    ]);
    let sets = sets(&[
        "raft.voters_max=5",
        "worker.pins_per_second=7",
        "api.message_bytes_max=65536",
    ]);
    let loaded = Loaded::read(Some(&file.path), env, &sets).unwrap();
    let config = &loaded.config;
    assert_eq!(config.raft.heartbeat, Duration::from_millis(60));
    assert_eq!(config.raft.batch_linger, Duration::ZERO);
    assert_eq!(config.raft.voters_max, 5);
    assert_eq!(config.peer.advertise, ["a:1", "b:2"]);
    assert_eq!(config.peer.name, "007");
    assert_eq!(config.worker.pins_per_second, 7.0);
    assert_eq!(config.api.message_bytes_max, 65_536);

    let shown = loaded.show();
    assert!(shown.contains("voters_max = 5 # --set raft.voters_max"), "{shown}");
    assert!(
        shown.contains("name = \"007\" # environment variable PINFLEET_PEER__NAME"),
        "{shown}"
    );
    assert!(
        shown.contains(&format!("heartbeat = \"60ms\" # in {}", file.path.display())),
        "{shown}"
    );
    assert!(shown.contains("deadline = \"10s\" # default"), "{shown}");
}

#[test]
fn what_is_shown_can_be_used() {
    let text = "[peer]\nname = \"x\"\n[[node]]\nname = \"k\"\napi = \"/ip4/127.0.0.1/tcp/5001\"\n\
                tags = { zone = \"a\", \"odd key\" = \"b\" }\n";
    let first = file(text);
    let loaded = Loaded::read(Some(&first.path), [], &[]).unwrap();
    let second = file(&loaded.show());
    assert_eq!(Loaded::read(Some(&second.path), [], &[]).unwrap().config, loaded.config);
}

#[test]
fn wrong_values_name_option_value_source_and_rule() {
    let text = problem("[raft]\nheartbeat = \"soon\"\n");
    assert!(text.starts_with("raft.heartbeat = \"soon\" (in /"), "{text}");
    assert!(
        text.ends_with(": must be a duration from 10ms to 1m, such as \"250ms\""),
        "{text}"
    );

    for (section, line) in [
        ("peer", "name = \"a b\""),
        ("peer", "name = \"n7\""),
        ("peer", "listen = \"localhost:1\""),
        ("peer", "listen = 9096"),
        ("peer", "advertise = \"a:1\""),
        ("peer", "advertise = [\"0.0.0.0:1\"]"),
        ("api", "message_bytes_max = \"1GiB\""),
        ("api", "message_bytes_max = -1"),
        ("api", "streams_max = 1.5"),
        ("telemetry", "log_level = \"verbose\""),
        ("telemetry", "log_level = \"info,,x=y\""),
        ("telemetry", "log_format = \"yaml\""),
        ("raft", "heartbeat = 100"),
        ("raft", "voters_max = 0"),
        ("raft", "voters_max = \"5\""),
        ("replication", "min = 1001"),
        ("replication", "spread_by = [\"\"]"),
        ("storage", "block_cache = \"1KiB\""),
        ("worker", "pins_per_second = -1.0"),
        ("worker", "pins_per_second = nan"),
        ("worker", "concurrency_max = 0"),
        ("shutdown", "deadline = \"1h\""),
        ("rest", "listen = [\"localhost\"]"),
        ("rest", "listen = [\"/ip4/127.0.0.1/tcp/9094\"]"),
        ("rest", "head_timeout = \"soon\""),
        ("rest", "head_timeout = \"-1s\""),
        ("rest", "idle_timeout = \"0s\""),
        ("rest", "head_bytes_max = \"4095B\""),
        ("rest", "target_bytes_max = \"64KiB\""),
        ("rest", "connections_max = 0"),
        ("rest", "cors_methods = [\"GET POST\"]"),
        ("rest", "cors_max_age = \"-1s\""),
    ] {
        let option = format!("{section}.{}", line.split(' ').next().unwrap());
        let text = problem(&format!("[{section}]\n{line}\n"));
        assert!(text.starts_with(&format!("{option} = ")), "{text}");
        assert!(text.contains(": must be "), "{text}");
    }
}

#[test]
fn wrong_values_of_other_sources_name_them() {
    let given = env(&[("PINFLEET_RAFT__VOTERS_MAX", "many"), ("PINFLEET_RAFT__VOTERSMAX", "5")]);
    let sets = sets(&["worker.backof_base=1s", "nonsense", "node.name=x"]);
    let Err(Error::Problems(list)) = Loaded::read(None, given, &sets) else {
        panic!();
    };
    let text: Vec<String> = list.iter().map(Problem::to_string).collect();
    assert_eq!(
        text,
        [
            "raft.votersmax (environment variable PINFLEET_RAFT__VOTERSMAX): there is no such option; did you mean \
             raft.voters_max?",
            "worker.backof_base (--set worker.backof_base): there is no such option; did you mean worker.backoff_base?",
            "nonsense (--set): must be section.key=value, such as raft.heartbeat=100ms",
            "node.name (--set node.name): can be set in the file only, in [[node]] sections, since there may be several",
            "raft.voters_max = \"many\" (environment variable PINFLEET_RAFT__VOTERS_MAX): must be a whole number from 1 \
             to 9",
        ]
    );
}

#[test]
fn unknown_names_are_refused_with_the_nearest() {
    assert!(problem("[raft]\nhartbeat = \"1s\"\n").ends_with("did you mean raft.heartbeat?"));
    assert!(problem("[raft]\nlog_level = \"info\"\n").ends_with("did you mean telemetry.log_level?"));
    assert!(problem("[rafft]\nheartbeat = \"1s\"\n").ends_with("did you mean [raft]?"));
    assert!(problem("heartbeat = \"1s\"\n").contains("no such section"));
    assert!(problem("raft = 5\n").ends_with("must be a [raft] section"));
    assert!(problem("[node]\nname = \"x\"\n").ends_with("must be a list of [[node]] sections"));
    assert!(
        problem("[[node]]\nname = \"x\"\napi = \"http://h:1\"\nwieght = 1\n").ends_with("did you mean node.weight?")
    );
}

#[test]
fn values_that_do_not_fit_together() {
    for (text, option) in [
        ("[raft]\nheartbeat = \"200ms\"\n", "raft.election_timeout_min"),
        (
            "[raft]\nelection_timeout_min = \"1s\"\nelection_timeout_max = \"1s\"\n",
            "raft.election_timeout_max",
        ),
        ("[replication]\nmin = 3\n", "replication.max"),
        ("[replication]\nmin = 0\n", "replication.min"),
        ("[replication]\nmin = -1\n", "replication.min"),
        ("[replication]\nmax = -1\n", "replication.max"),
        ("[worker]\nconcurrency_max = 4\n", "worker.concurrency_start"),
        ("[worker]\nbackoff_max = \"1ms\"\n", "worker.backoff_max"),
        ("[peer]\nlisten = \"0.0.0.0:9096\"\n", "peer.advertise"),
        (
            "[[node]]\nname = \"a\"\napi = \"http://h:1\"\n[[node]]\nname = \"a\"\napi = \"http://h:2\"\n",
            "node.1.name",
        ),
        (
            "[[node]]\nname = \"a\"\napi = \"http://h:1\"\n[[node]]\nname = \"b\"\napi = \"http://h:1\"\n",
            "node.1.api",
        ),
        ("[[node]]\nname = \"a\"\n", "node.0.api"),
        ("[rest]\ntls_cert_file = \"cert.pem\"\n", "rest.tls_key_file"),
        ("[rest]\ntls_key_file = \"key.pem\"\n", "rest.tls_cert_file"),
    ] {
        let text = problem(text);
        assert!(text.starts_with(option), "{text}");
    }
}

#[test]
fn all_problems_are_named_at_once() {
    let list = problems("[raft]\nheartbeat = 1\nvoters_max = 0\n[nonsense]\nx = 1\n");
    assert_eq!(list.len(), 3, "{list:?}");
}

#[test]
fn files_that_are_none() {
    let missing = Loaded::read(Some(Path::new("/does/not/exist.toml")), [], &[]).unwrap_err();
    assert!(missing.to_string().contains("cluster-node init"), "{missing}");
    let broken = file("[raft\n");
    let error = Loaded::read(Some(&broken.path), [], &[]).unwrap_err();
    assert!(matches!(error, Error::File { .. }));
    assert!(error.to_string().contains("line 1"), "{error}");
}

#[test]
fn what_is_open_to_others_is_warned_about() {
    let sets = sets(&["api.grpc_listen=0.0.0.0:0"]);
    let config = Loaded::read(None, [], &sets).unwrap().config;
    assert_eq!(config.warnings().len(), 1);
    assert!(config.warnings()[0].starts_with("api.grpc_listen"));
}
