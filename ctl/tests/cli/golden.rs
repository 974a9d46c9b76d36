//! Sessions compared with files, byte for byte.

use std::collections::VecDeque;
use std::path::Path;

use cluster_proto::v1;

use crate::fake::{Fault, Served, Server, no_leader, not_placeable, refused};
use crate::runner::{Ran, cid, run, run_with_input};
use crate::scenes::{PEER_B, cluster, embedded, node_status, status};

/// A session: commands with their outcome, in the order they ran.
struct Session {
    text: String,
}

impl Session {
    fn new() -> Self {
        Self { text: String::new() }
    }

    fn add(&mut self, arguments: &[&str], ran: Ran) {
        let shown: Vec<String> = arguments
            .iter()
            .map(|word| {
                if word.contains([' ', '*']) {
                    format!("'{word}'")
                } else {
                    (*word).to_owned()
                }
            })
            .collect();
        self.text += &format!("$ cluster-ctl {}\n{}", shown.join(" "), ran.stdout);
        for line in ran.stderr.lines() {
            self.text += &format!("stderr: {line}\n");
        }
        self.text += &format!("exit: {}\n\n", ran.code);
    }

    fn run(&mut self, server: &Server, arguments: &[&str]) {
        let ran = run(&server.api(), arguments);
        self.add(arguments, ran);
    }

    #[track_caller]
    fn compare(self, name: &str, replace: &[(&str, &str)]) {
        let mut text = self.text;
        for (from, to) in replace {
            text = text.replace(from, to);
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).expect("writable");
            return;
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            text == expected,
            "{} differs; UPDATE_GOLDEN=1 writes it anew. Now it is:\n{text}",
            path.display()
        );
    }
}

#[test]
fn status_screen() {
    let server = cluster();
    let mut session = Session::new();
    session.run(&server, &["status"]);
    session.run(&server, &["status", "--width", "120"]);
    session.run(&server, &["status", "--check", "-o", "json"]);
    server.fake.script(|script| {
        script.cluster.health = v1::Health::Ok.into();
        script.cluster.problems.clear();
        script.cluster.nodes.clear();
    });
    session.run(&server, &["status", "--check"]);
    session.compare("status.txt", &[]);
}

#[test]
fn peers_and_nodes() {
    let server = cluster();
    let mut session = Session::new();
    session.run(&server, &["peer", "ls"]);
    session.run(&server, &["peer", "ls", "--width", "100"]);
    session.run(&server, &["peer", "ls", "-o", "json"]);
    session.run(&server, &["peer", "join-token", "--valid-for", "10m"]);
    session.run(&server, &["peer", "join-token", "-o", "json"]);
    session.run(&server, &["peer", "rm", "peer-b"]);
    session.run(&server, &["peer", "promote", PEER_B, "-o", "json"]);
    session.run(&server, &["peer", "rm", "peer-x"]);
    session.run(&server, &["node", "ls"]);
    session.run(&server, &["node", "ls", "-o", "json"]);
    session.run(
        &server,
        &[
            "node",
            "add",
            "kubo-9",
            "http://10.0.0.9:5001",
            "--tag",
            "zone=c",
            "--weight",
            "2",
        ],
    );
    session.run(&server, &["node", "cordon", "kubo-1", "-o", "json"]);
    session.run(&server, &["node", "drain", "kubo-1"]);
    session.run(&server, &["node", "uncordon", "kubo-7"]);
    session.run(&server, &["node", "rm", "n2"]);
    session.run(&server, &["settings"]);
    session.run(
        &server,
        &[
            "settings",
            "set",
            "--replicas",
            "3",
            "--spread",
            "region,zone",
            "-o",
            "json",
        ],
    );
    session.run(&server, &["settings", "set", "--no-spread"]);
    session.compare("peers-and-nodes.txt", &[]);
    assert_eq!(server.fake.calls("remove_peer"), [PEER_B]);
    assert_eq!(server.fake.calls("create_join_token"), ["600000", "3600000"]);
}

#[test]
fn single_nodes() {
    let server = embedded();
    server.fake.script(|script| {
        script.collecting = vec![v1::GarbageProgress {
            done: 0.5,
            looks: 1,
            ..v1::GarbageProgress::default()
        }];
        script.collected = v1::GarbageCollected {
            looks: 2,
            scanned: 2_500_000,
            deleted_blocks: 5_000,
            deleted_bytes: 1 << 30,
            took_ms: 12_345,
        };
        script.estimate = v1::GarbageEstimate {
            blocks: 4_900,
            bytes: 900 << 20,
            looked_at: 0.125,
        };
    });
    let mut session = Session::new();
    session.run(&server, &["node", "show", "node-4"]);
    session.run(&server, &["node", "show", "node-4", "--width", "80"]);
    session.run(&server, &["node", "show", "node-5", "--width", "100"]);
    session.run(&server, &["node", "show", "kubo-1"]);
    session.run(&server, &["node", "show", "kubo-2", "--width", "80"]);
    session.run(&server, &["node", "show", "kubo-7"]);
    session.run(&server, &["node", "gc", "node-4", "--estimate"]);
    session.run(&server, &["node", "gc", "node-4", "--estimate", "-o", "json"]);
    session.run(&server, &["node", "gc", "node-4"]);
    session.run(&server, &["node", "gc", "n4", "-o", "json"]);
    server.fake.script(|script| script.estimate.looked_at = 1.0);
    session.run(&server, &["node", "gc", "node-4", "--estimate", "-q"]);
    session.run(&server, &["node", "gc", "kubo-1"]);
    session.run(&server, &["node", "gc", "kubo-7", "--estimate"]);
    session.compare("single-nodes.txt", &[]);
    let collected = server.fake.calls("collect_garbage");
    assert_eq!(collected[2..4], ["node-4 collect", "n4 collect"]);
}

#[test]
fn pin_lists() {
    let server = cluster();
    let mut session = Session::new();
    let one = cid(1);
    session.run(&server, &["pin", "ls"]);
    session.run(&server, &["pin", "ls", "--width", "100"]);
    session.run(&server, &["pin", "ls", "--width", "100", "--full", "--name", "pho"]);
    session.run(&server, &["pin", "ls", "-o", "json"]);
    session.run(&server, &["pin", "ls", "--count"]);
    session.run(
        &server,
        &["pin", "ls", "--namespace", "team-a", "--count", "-o", "json"],
    );
    session.run(&server, &["pin", "ls", "--namespace", "nobody"]);
    session.run(&server, &["pin", "ls", "--limit", "1"]);
    session.run(&server, &["pin", "ls", &one, &cid(9)]);
    session.run(&server, &["pin", "ls", &cid(9)]);
    session.run(&server, &["pin", "explain", &one]);
    session.run(&server, &["pin", "explain", &one, "--replicas", "2", "-o", "json"]);
    session.run(&server, &["watch", "--limit", "3"]);
    session.run(&server, &["watch", "--limit", "1", "--after", "1200002", "-o", "json"]);
    session.compare("pin-lists.txt", &[(&server.api(), "PEER")]);
    assert_eq!(server.fake.calls("watch"), ["1200000", "1200001", "1200002", "1200002"]);
}

#[test]
fn pin_status() {
    let server = cluster();
    let mut session = Session::new();
    session.run(&server, &["pin", "status", &cid(1), &cid(3)]);
    session.run(&server, &["pin", "status", &cid(1), "--width", "110"]);
    session.run(&server, &["pin", "status"]);
    session.run(&server, &["pin", "status", "--filter", "gave_up", "--detail"]);
    session.run(&server, &["pin", "status", &cid(9)]);
    session.run(&server, &["pin", "recover", &cid(2)]);
    session.run(
        &server,
        &[
            "pin",
            "recover",
            "--node",
            "kubo-1",
            "--class",
            "not_found",
            "-o",
            "json",
        ],
    );
    server
        .fake
        .script(|script| script.recovered.unreachable_nodes = vec!["kubo-3".into()]);
    session.run(&server, &["pin", "recover", "--all"]);
    session.compare("pin-status.txt", &[]);
}

#[test]
fn pin_add_and_rm() {
    let server = Server::start();
    let mut session = Session::new();
    let (one, two) = (cid(1), cid(2));
    session.run(&server, &["pin", "add", &one, "--name", "photos", "--replicas", "2"]);
    session.run(&server, &["pin", "add", &one, &two, "--everywhere", "-o", "json"]);
    server.fake.fault("pin", Fault::Status(not_placeable()));
    session.run(&server, &["pin", "add", &cid(3)]);
    server.fake.fault("pin", Fault::Status(not_placeable()));
    session.run(&server, &["pin", "add", &cid(3), &cid(4)]);
    session.run(&server, &["pin", "update", &one, &cid(5), "--unpin"]);
    session.run(&server, &["pin", "update", &cid(8), &cid(9)]);
    session.run(&server, &["pin", "rm", &one, &cid(7)]);
    session.run(&server, &["pin", "rm", &cid(7)]);
    session.run(&server, &["pin", "rm", &two, &cid(7), "--ignore-missing", "-o", "json"]);
    let list: String = (100..120).map(|n| format!("{}\n", cid(n))).collect();
    let arguments = ["pin", "add", "-", "--quiet"];
    session.add(&arguments, run_with_input(&server.api(), &arguments, list.as_bytes()));
    let arguments = ["pin", "rm", "-", "-o", "json", "-q"];
    session.add(&arguments, run_with_input(&server.api(), &arguments, list.as_bytes()));
    session.compare("pin-add.txt", &[]);
    // Twenty CIDs went over one stream, and each was removed.
    assert_eq!(server.fake.calls("bulk_pin").len(), 1);
    assert_eq!(server.fake.calls("item").len(), 20);
}

#[test]
fn waiting() {
    let server = Server::start();
    let one = cid(1);
    let step =
        |node_1: v1::NodeStatus, whole| status(&one, vec![node_1, node_status("kubo-2", v1::Status::Pinned)], whole);
    let pinning = v1::NodeStatus {
        blocks: 12,
        bytes: 5 << 20,
        ..node_status("kubo-1", v1::Status::Pinning)
    };
    let pinned = v1::NodeStatus {
        blocks: 40,
        bytes: 9 << 20,
        ..node_status("kubo-1", v1::Status::Pinned)
    };
    let gave_up = v1::NodeStatus {
        error: "not found".into(),
        ..node_status("kubo-1", v1::Status::GaveUp)
    };
    let unpinning = v1::PinStatus {
        pins: 0,
        ..step(node_status("kubo-1", v1::Status::Unpinning), v1::Status::Unpinning)
    };
    let released = v1::PinStatus {
        nodes: vec![],
        ..unpinning.clone()
    };
    let say = |steps: Vec<v1::PinStatus>| {
        server
            .fake
            .script(|script| drop(script.statuses.insert(one.clone(), VecDeque::from(steps))));
    };
    let queued = step(node_status("kubo-1", v1::Status::Queued), v1::Status::Queued);
    let mut session = Session::new();
    say(vec![
        queued.clone(),
        step(pinning.clone(), v1::Status::Pinning),
        step(pinned, v1::Status::Pinned),
    ]);
    session.run(&server, &["pin", "add", &one, "--wait"]);
    session.run(&server, &["pin", "add", &one, "--wait", "-o", "json", "-q"]);
    say(vec![
        step(pinning, v1::Status::Pinning),
        step(gave_up, v1::Status::GaveUp),
    ]);
    session.run(&server, &["pin", "add", &one, "--wait", "--wait-timeout", "1h"]);
    say(vec![queued]);
    session.run(&server, &["pin", "add", &one, "--wait", "--wait-timeout", "300ms"]);
    // Another CID: what the last command asked before its time was up may arrive only now, and would take a state away.
    let two = cid(2);
    run(&server.api(), &["pin", "add", &two, "-q"]).expect(0);
    let steps = [unpinning, released].map(|step| v1::PinStatus {
        cid: two.clone(),
        ..step
    });
    server
        .fake
        .script(|script| drop(script.statuses.insert(two.clone(), steps.into())));
    session.run(&server, &["pin", "rm", &two, "--wait"]);
    session.compare("waiting.txt", &[]);
}

#[test]
fn content() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(at("photos/2026")).expect("made");
    std::fs::write(at("photos/2026/a.jpg"), vec![7; 300_000]).expect("written");
    std::fs::write(at("photos/notes.txt"), "notes").expect("written");
    let mut session = Session::new();
    let run = |session: &mut Session, arguments: &[&str]| {
        session.add(
            arguments,
            crate::runner::run_in(folder.path(), &server.api(), arguments),
        );
    };
    run(&mut session, &["add", "photos", "--replicas", "2"]);
    run(&mut session, &["add", "photos", "--width", "60", "-q"]);
    run(&mut session, &["add", "photos/notes.txt", "--wrap", "-o", "json"]);
    run(&mut session, &["add", "photos", "--cid-only", "--quiet"]);
    run(&mut session, &["add", "photos", "--no-pin", "-Q"]);
    run(&mut session, &["add", "photos", "photos/notes.txt"]);
    run(&mut session, &["add", "missing"]);
    server.fake.fault("add", Fault::Status(not_placeable()));
    run(&mut session, &["add", "photos", "--replicas", "2"]);
    let root = cid(1);
    let path = format!("{root}/notes.txt");
    let served = |directory: bool, data: &[u8]| Served {
        cid: root.clone(),
        directory,
        is_sized: false,
        data: data.to_vec(),
    };
    server.fake.script(|script| {
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_dir_all("root", at("photos")).expect("readable");
        let archive = archive.into_inner().expect("in memory");
        let tar = v1::FetchFormat::Tar;
        script.served.insert((root.clone(), tar), served(true, &archive));
        script
            .served
            .insert((root.clone(), v1::FetchFormat::Car), served(false, b"a car"));
        script
            .served
            .insert((path.clone(), v1::FetchFormat::File), served(false, b"notes\n"));
    });
    run(&mut session, &["get", &root, "--to", "back"]);
    run(&mut session, &["get", &root, "--to", "back"]);
    run(&mut session, &["get", &root, "--to", "back", "--force", "-o", "json"]);
    run(&mut session, &["get", &cid(2)]);
    run(&mut session, &["cat", &path]);
    run(&mut session, &["get", &root, "--car", "--to", "root.car"]);
    run(
        &mut session,
        &["get", &root, "--car", "--to", "again.car", "-o", "json"],
    );
    session.compare("content.txt", &[]);
}

/// The codes that scripts depend on and no other session shows.
#[test]
fn tokens_and_credentials() {
    let server = cluster();
    let mut session = Session::new();
    session.run(&server, &["token", "create", "ops", "--scope", "admin"]);
    session.run(
        &server,
        &[
            "token",
            "create",
            "ci",
            "--namespace",
            "team-a",
            "--expire-at",
            "2026-12-31T12:00:00Z",
            "-o",
            "json",
        ],
    );
    session.run(
        &server,
        &["credential", "create", "alice", "--scope", "read", "--generate"],
    );
    let arguments = ["credential", "create", "bob", "--namespace", "team-a"];
    session.add(
        &arguments,
        run_with_input(&server.api(), &arguments, b"correct horse battery\n"),
    );
    server.fake.script(|script| {
        script.credentials[1].expired = true;
    });
    session.run(&server, &["token", "ls"]);
    session.run(&server, &["token", "ls", "-o", "json"]);
    session.run(&server, &["credential", "ls"]);
    session.run(&server, &["token", "revoke", "ci"]);
    session.run(&server, &["credential", "revoke", "alice", "-o", "json"]);
    session.run(&server, &["token", "revoke", "ci"]);
    for (code, reason, message) in [
        (
            tonic::Code::Unauthenticated,
            "NO_CREDENTIAL",
            "this peer asks for a credential and the call shows none",
        ),
        (
            tonic::Code::Unauthenticated,
            "WRONG_CREDENTIAL",
            "the token is wrong, or it has expired or was revoked",
        ),
        (tonic::Code::PermissionDenied, "DENIED", "List needs the scope admin"),
    ] {
        server
            .fake
            .fault("list_credentials", Fault::Status(refused(code, reason, message)));
        session.run(&server, &["token", "ls"]);
    }
    session.compare("access.txt", &[]);
}

#[test]
fn exit_codes() {
    let server = cluster();
    let mut session = Session::new();
    // 1: the list can't be read.
    session.run(&server, &["pin", "import", "no-such-list.txt"]);
    // 2: the command line is wrong.
    session.run(&server, &["pin", "add", "nonsense"]);
    session.run(&server, &["pin", "recover"]);
    session.run(&server, &["settings", "set", "--spread", "zone", "--no-spread"]);
    // 5: nobody answers, or nobody leads.
    let arguments = ["status", "--timeout", "2s"];
    session.add(&arguments, run("http://127.0.0.1:1", &arguments));
    server
        .fake
        .fault("pin", Fault::Status(no_leader(std::time::Duration::from_secs(60))));
    session.run(&server, &["pin", "add", &cid(1), "--timeout", "1s"]);
    // 130: interrupted while it waits.
    server.fake.fault("watch", Fault::Hang);
    let arguments = ["watch", "--after", "1200003"];
    let child = crate::runner::spawn(&server.api(), &arguments);
    server.fake.until_called("watch");
    let killed = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(killed.expect("kill runs").success());
    session.add(&arguments, child.wait_with_output().expect("ends").into());
    session.compare("exit-codes.txt", &[(&server.api(), "PEER")]);
}

#[test]
fn help() {
    let server = Server::start();
    let mut session = Session::new();
    session.run(&server, &["--help"]);
    session.run(&server, &["pin", "--help"]);
    session.run(&server, &["pin", "add", "--help"]);
    session.run(&server, &["pin", "import", "--help"]);
    session.run(&server, &["node", "--help"]);
    session.run(&server, &["node", "show", "--help"]);
    session.run(&server, &["node", "gc", "--help"]);
    session.run(&server, &["add", "--help"]);
    session.run(&server, &["get", "--help"]);
    session.run(&server, &["cat", "--help"]);
    session.run(&server, &["import", "--help"]);
    session.run(&server, &["export", "--help"]);
    session.run(&server, &["token", "create", "--help"]);
    session.run(&server, &["credential", "create", "--help"]);
    session.run(&server, &["version"]);
    session.run(&server, &["version", "-o", "json"]);
    session.compare(
        "help.txt",
        &[(&server.api(), "PEER"), (env!("CARGO_PKG_VERSION"), "VERSION")],
    );
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let ran = run(&server.api(), &["completion", shell]).expect(0);
        assert!(ran.stdout.contains("join-token"), "{shell}");
    }
}
