//! Content on its way in: what is sent, and that nothing is pinned unless all of it was.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use cluster_proto::v1::add_entry::Kind;
use cluster_proto::v1::{self, add_start::Format};
use tempfile::TempDir;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

use crate::fake::{Add, BulkEnd, Ended, Fault, Server, not_placeable};
use crate::runner::{Ran, cid, command, run, run_in, run_with_input, signal, spawn};
use crate::scenes::{node_status, status};

struct Tree {
    folder: TempDir,
}

impl Tree {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let top = folder.path().join("photos");
        fs::create_dir_all(top.join("2026/empty")).expect("made");
        fs::create_dir_all(top.join(".cache")).expect("made");
        fs::write(top.join("2026/a.jpg"), "aaa").expect("written");
        fs::write(top.join(".cache/x"), "x").expect("written");
        fs::write(top.join("B"), "").expect("written");
        symlink("2026/a.jpg", top.join("latest")).expect("made");
        Self { folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).to_str().expect("UTF-8").to_owned()
    }
}

fn one_add(server: &Server) -> Add {
    let mut adds = server.fake.ended_adds(1);
    assert_eq!(adds.len(), 1);
    adds.remove(0)
}

fn unixfs(add: &Add) -> v1::UnixFsOptions {
    match &add.start.format {
        Some(Format::Unixfs(options)) => options.clone(),
        other => panic!("not UnixFS: {other:?}"),
    }
}

fn pins(server: &Server) -> usize {
    server.fake.pins.lock().expect("not poisoned").len()
}

#[test]
fn a_directory_is_sent_in_order_with_its_options() {
    let server = Server::start();
    let tree = Tree::new();
    let path = tree.text("photos");
    let arguments = [
        "add",
        &path,
        "--name",
        "holiday",
        "--replicas",
        "2",
        "--meta",
        "owner=ann",
        "--node",
        "node-1",
        "--expire-in",
        "30d",
        "--namespace",
        "team-a",
        "--slot",
        "s1",
    ];
    let ran = run(&server.api(), &arguments)
        .expect(0)
        .says("on node-1, node-2 (created): 7 blocks, 3 B");
    let shown: Vec<&str> = ran
        .stdout
        .lines()
        .map(|line| line.rsplit("  ").next().expect("a path"))
        .collect();
    let complete = [
        "PATH",
        "photos/2026/a.jpg",
        "photos/2026/empty",
        "photos/2026",
        "photos/B",
        "photos/latest",
        "photos",
    ];
    assert_eq!(shown, complete, "{}", ran.stdout);

    let add = one_add(&server);
    assert_eq!(add.ended, Ended::Clean);
    let sent: Vec<_> = add
        .entries
        .iter()
        .map(|added| {
            (
                added.entry.path.as_str(),
                added.entry.kind(),
                added.entry.target.as_str(),
                added.data.as_slice(),
            )
        })
        .collect();
    let expected: [(&str, Kind, &str, &[u8]); 6] = [
        ("photos", Kind::Directory, "", b""),
        ("photos/2026", Kind::Directory, "", b""),
        ("photos/2026/a.jpg", Kind::File, "", b"aaa"),
        ("photos/2026/empty", Kind::Directory, "", b""),
        ("photos/B", Kind::File, "", b""),
        ("photos/latest", Kind::Symlink, "2026/a.jpg", b""),
    ];
    assert_eq!(sent, expected);
    assert_eq!(
        (add.start.namespace.as_str(), add.start.slot.as_str()),
        ("team-a", "s1")
    );
    assert!(!add.start.request_id.is_empty() && !add.start.without_pin);
    let options = add.start.options.as_ref().expect("always there");
    assert_eq!(
        (options.name.as_str(), options.replication_min, options.replication_max),
        ("holiday", 2, 2)
    );
    assert_eq!(
        (options.metadata["owner"].as_str(), options.nodes.as_slice()),
        ("ann", &["node-1".to_owned()][..])
    );
    assert_eq!(
        options.expiry,
        Some(v1::pin_options::Expiry::ExpireInMs(30 * 86_400_000))
    );
    assert_eq!(
        unixfs(&add),
        v1::UnixFsOptions::default(),
        "what is not given is as the profile says"
    );
}

#[test]
fn every_option_of_unixfs_reaches_the_cluster() {
    let server = Server::start();
    let tree = Tree::new();
    let path = tree.text("photos/2026/a.jpg");
    let arguments = [
        "add",
        &path,
        "--profile",
        "unixfs-v0-2015",
        "--cid-version",
        "1",
        "--hash",
        "blake3",
        "--chunker",
        "rabin-1024-2048-4096",
        "--raw-leaves=false",
        "--trickle",
        "--max-file-links",
        "174",
        "--hamt-threshold",
        "0",
        "--max-hamt-fanout",
        "64",
        "--preserve-mode",
        "--preserve-mtime",
        "--wrap",
        "--no-pin",
    ];
    run(&server.api(), &arguments).expect(0).says("without a pin");
    let add = one_add(&server);
    let expected = v1::UnixFsOptions {
        profile: "unixfs-v0-2015".into(),
        cid_version: Some(1),
        hash: "blake3".into(),
        chunker: "rabin-1024-2048-4096".into(),
        raw_leaves: Some(false),
        trickle: true,
        file_links_max: Some(174),
        directory_bytes_max: Some(0),
        hamt_fanout: Some(64),
        preserve_mode: true,
        preserve_mtime: true,
        wrap: true,
    };
    assert_eq!(unixfs(&add), expected);
    assert!(add.start.without_pin);
    assert_eq!(pins(&server), 0);
    let entry = &add.entries[0].entry;
    let data = fs::metadata(&path).expect("there");
    use std::os::unix::fs::MetadataExt;
    assert_eq!((entry.mode, entry.mtime_seconds), (data.mode() & 0o7777, data.mtime()));
    assert_eq!(i64::from(entry.mtime_nanos), data.mtime_nsec());

    run(&server.api(), &["add", &path, "--raw-leaves"]).expect(0);
    assert_eq!(unixfs(&server.fake.ended_adds(2)[1]).raw_leaves, Some(true));
}

#[test]
fn hidden_entries_and_patterns() {
    let server = Server::start();
    let tree = Tree::new();
    let arguments = [
        "add",
        "photos",
        "--hidden",
        "--ignore",
        "*.jpg",
        "--ignore",
        "2026/empty",
        "-Q",
    ];
    let ran = run_in(tree.folder.path(), &server.api(), &arguments).expect(0);
    assert_eq!(ran.stdout, format!("{}\n", cid(6)));
    let paths = one_add(&server).paths();
    assert_eq!(
        paths,
        [
            "photos",
            "photos/.cache",
            "photos/.cache/x",
            "photos/2026",
            "photos/B",
            "photos/latest"
        ]
    );
}

#[test]
fn several_paths_and_standard_input() {
    let server = Server::start();
    let tree = Tree::new();
    let (a, b) = (tree.text("photos/2026/a.jpg"), tree.text("photos/B"));
    let arguments = ["add", &a, "-", &b, "--wrap", "-o", "json"];
    let ran = run_with_input(&server.api(), &arguments, b"from a pipe").expect(0);
    let objects: Vec<serde_json::Value> = ran
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object"))
        .collect();
    assert_eq!(objects.len(), 5);
    let added = serde_json::json!({"event": "added", "path": "a.jpg", "cid": cid(1), "tsize": 3});
    assert_eq!(objects[0], added);
    let done = &objects[4];
    assert_eq!(
        (&done["event"], &done["cid"], &done["outcome"]),
        (&"done".into(), &cid(4).into(), &"created".into())
    );
    assert_eq!(done["pin"]["cid"], cid(4));
    let add = one_add(&server);
    assert_eq!(add.paths(), ["a.jpg", "", "B"]);
    assert_eq!(add.entries[1].data, b"from a pipe");
    assert_eq!(add.entries[1].entry.kind(), Kind::File);
}

#[test]
fn a_car_file_is_sent_as_it_is() {
    let server = Server::start();
    let tree = Tree::new();
    fs::write(tree.at("x.car"), vec![b'c'; 3_000_000]).expect("written");
    run(&server.api(), &["add", "--car", &tree.text("x.car")]).expect(0);
    run_with_input(&server.api(), &["add", "--car", "-"], &vec![b'd'; 3_000_000]).expect(0);
    let adds = server.fake.ended_adds(2);
    for (add, byte) in adds.iter().zip(b"cd") {
        assert_eq!(add.start.format, Some(Format::Car(v1::CarOptions {})));
        assert!(add.entries[0].data == vec![*byte; 3_000_000]);
        assert!(add.entries[0].longest <= 1 << 20);
    }
}

#[test]
fn a_large_file_comes_in_pieces_and_whole() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("large");
    let data: Vec<u8> = (0..5_500_000_u32).flat_map(|n| (n % 251).to_be_bytes()).collect();
    fs::write(&file, &data).expect("written");
    run(&server.api(), &["add", file.to_str().expect("UTF-8")]).expect(0);
    let add = one_add(&server);
    assert!(add.entries[0].data == data);
    assert_eq!(add.entries[0].longest, 1 << 20);
}

#[test]
fn what_can_not_be_added_is_named_before_anything_is_sent() {
    let server = Server::start();
    let tree = Tree::new();
    let pipe = tree.text("photos/2026/pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo runs").success());
    fs::create_dir(tree.at("other")).expect("made");
    fs::write(tree.at("other/photos"), "").expect("written");
    let cases: [(&[&str], &str); 9] = [
        (&["add", "photos"], "photos/2026/pipe is a named pipe"),
        (&["add", "photos/2026/pipe"], "is a named pipe"),
        (&["add", "missing"], "can't read missing: No such file"),
        (&["add", "/dev/null"], "/dev/null is a device"),
        (&["add", "photos/B", "other"], "--wrap puts them into one directory"),
        (
            &["add", "photos/2026/a.jpg", "other/../photos/2026/a.jpg", "--wrap"],
            "would be called \"a.jpg\"",
        ),
        (&["add", "-", "-", "--wrap"], "`-` is given twice"),
        (&["add", "--car", "photos"], "photos is no file"),
        (&["add", "--car", "photos/B", "-"], "--car takes one PATH"),
    ];
    for (arguments, expected) in cases {
        let ran = run_in(tree.folder.path(), &server.api(), arguments)
            .expect(2)
            .says(expected);
        assert_eq!(ran.stdout, "");
    }
    assert!(server.fake.calls("add").is_empty());
    let arguments = ["add", "photos", "--ignore", "pipe"];
    run_in(tree.folder.path(), &server.api(), &arguments).expect(0);
}

/// Root may read every file; that one even root can't.
#[test]
fn a_file_that_can_not_be_read_is_named_and_nothing_is_pinned() {
    let server = Server::start();
    let ran = run(&server.api(), &["add", "/proc/self/mem"]).expect(1);
    ran.says("can't read /proc/self/mem: Input/output error")
        .says("nothing was pinned");
    assert_eq!(
        one_add(&server).ended,
        Ended::Refused,
        "the peer must not take it for complete"
    );
    assert_eq!(pins(&server), 0);
}

#[test]
fn an_interrupted_add_pins_nothing() {
    let server = Server::start();
    for (name, code) in [("-INT", Some(130)), ("-KILL", None)] {
        let before = server.fake.calls("data").len();
        let mut child = command(&server.api(), &["add", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut input = child.stdin.take().expect("piped");
        input.write_all(b"the beginning").expect("taken");
        server.fake.until_calls("data", before + 1);
        signal(&child, name);
        let output = child.wait_with_output().expect("ends");
        assert_eq!(output.status.code(), code);
        if code.is_some() {
            Ran::from(output).says("interrupted").says("nothing was pinned");
        }
        drop(input);
    }
    let ended: Vec<Ended> = server.fake.ended_adds(2).iter().map(|add| add.ended).collect();
    assert_eq!(ended, [Ended::Refused, Ended::Broken], "neither may look complete");
    assert_eq!(pins(&server), 0);
}

fn unknown_outcome() -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info("OUTCOME_UNKNOWN", "pinfleet", std::collections::HashMap::new());
    Status::with_error_details(tonic::Code::Unknown, "no word of the leader in time", details)
}

#[test]
fn a_stream_that_breaks_says_what_became_of_the_content() {
    let tree = Tree::new();
    let path = tree.text("photos");
    let add = |end: (Option<usize>, BulkEnd)| {
        let server = Server::start();
        server.fake.script(|script| script.add_end = Some(end));
        let ran = run(
            &server.api(),
            &["add", &path, "--timeout", "500ms", "--namespace", "team-a"],
        );
        // Blindly repeated it would be sent twice.
        assert_eq!(server.fake.calls("add").len(), 1);
        ran
    };
    let stopping = || Status::unavailable("this peer is stopping; ask another one");
    add((Some(3), BulkEnd::Break(stopping())))
        .expect(5)
        .says("this peer is stopping")
        .says("nothing was pinned");
    let refused = add((Some(1), BulkEnd::Break(not_placeable())))
        .expect(4)
        .says("2 storage nodes are needed");
    assert!(!refused.stderr.contains("--allow-unplaced"), "{}", refused.stderr);
    refused.says("cluster-ctl node ls").says("nothing was pinned");
    // An answer of the cluster, also after the end: then nothing was changed.
    add((None, BulkEnd::Break(stopping())))
        .expect(5)
        .says("nothing was pinned");

    let unknown = add((None, BulkEnd::Break(unknown_outcome()))).expect(6);
    unknown
        .says("whether it was pinned is not known")
        .says(&format!("pin ls {} --namespace team-a", cid(6)));
    add((None, BulkEnd::Stall))
        .expect(6)
        .says("nothing moves for 1s")
        .says("adding it again is safe");
}

#[test]
fn a_peer_that_is_killed_ends_the_add() {
    let tree = Tree::new();
    let path = tree.text("photos");
    for (after, code, says) in [
        (Some(2), 5, "nothing was pinned; run the command again"),
        (None, 6, "whether it was pinned is not known"),
    ] {
        let server = Server::start();
        let (tell, told) = mpsc::channel();
        server
            .fake
            .script(|script| script.add_end = Some((after, BulkEnd::Kill(tell))));
        // Without an end of the input the add can't be complete.
        let arguments: &[&str] = if after.is_some() {
            &["add", "-", &path, "--wrap"]
        } else {
            &["add", &path]
        };
        let mut child = command(&server.api(), arguments)
            .stdin(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut input = child.stdin.take().expect("piped");
        if after.is_some() {
            input.write_all(b"the beginning").expect("taken");
        }
        told.recv_timeout(Duration::from_secs(30)).expect("the add came so far");
        let fake = std::sync::Arc::clone(&server.fake);
        drop(server);
        Ran::from(child.wait_with_output().expect("ends"))
            .expect(code)
            .says("the stream broke off")
            .says(says);
        assert!(fake.pins.lock().expect("not poisoned").is_empty());
    }
}

#[test]
fn a_peer_that_takes_nothing_more_is_given_up() {
    let server = Server::start();
    server
        .fake
        .script(|script| script.add_end = Some((Some(2), BulkEnd::Stall)));
    let folder = tempfile::tempdir().expect("a folder");
    // More than all buffers between here and there hold.
    let file = folder.path().join("large");
    fs::File::create(&file)
        .and_then(|file| file.set_len(256 << 20))
        .expect("written");
    let arguments = ["add", file.to_str().expect("UTF-8"), "--timeout", "700ms"];
    run(&server.api(), &arguments)
        .expect(5)
        .says("nothing moves for 700ms")
        .says("nothing was pinned");
}

#[test]
fn another_peer_is_asked_before_anything_is_sent() {
    let server = Server::start();
    server.fake.fault(
        "add",
        Fault::Status(Status::resource_exhausted("32 adds are under way")),
    );
    let tree = Tree::new();
    run(&server.api(), &["add", &tree.text("photos")])
        .expect(0)
        .says("32 adds are under way; trying again");
    assert_eq!(server.fake.calls("add").len(), 2);
}

#[test]
fn who_reads_the_output_may_go_away() {
    let server = Server::start();
    let tree = Tree::new();
    let mut child = spawn(&server.api(), &["add", &tree.text("photos")]);
    drop(child.stdout.take());
    Ran::from(child.wait_with_output().expect("ends")).expect(0);
    assert_eq!(pins(&server), 1, "that is no reason to pin nothing");
}

#[test]
fn waiting_for_all_nodes() {
    let server = Server::start();
    let tree = Tree::new();
    let root = cid(6);
    let pinning = status(
        &root,
        vec![node_status("node-3", v1::Status::Pinning)],
        v1::Status::Pinning,
    );
    let pinned = status(
        &root,
        vec![node_status("node-3", v1::Status::Pinned)],
        v1::Status::Pinned,
    );
    server.fake.script(|script| {
        script.statuses.insert(root.clone(), [pinning, pinned].into());
        script.add_failures = vec!["node-3: it is full".into()];
    });
    let path = tree.text("photos");
    let ran = run(&server.api(), &["add", &path, "--wait", "-o", "json", "--cid-only"]).expect(0);
    ran.says("warning: node-3: it is full");
    let again = run(
        &server.api(),
        &["add", &path, "--wait", "-o", "json", "--cid-only", "-q"],
    )
    .expect(0);
    let done: serde_json::Value = serde_json::from_str(&again.stdout).expect("one object");
    assert_eq!(
        (&done["status"], &done["outcome"]),
        (&"pinned".into(), &"unchanged".into())
    );
    assert_eq!(done["failures"][0], "node-3: it is full");
}

/// The walk sees names and no contents, so its memory does not grow with the files.
#[test]
fn a_tree_of_many_files_is_sent_whole() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    let top = folder.path().join("many");
    fs::create_dir(&top).expect("made");
    let name = |n: u32| format!("{n:05}");
    for n in 0..3_000 {
        fs::write(top.join(name(n)), n.to_string()).expect("written");
    }
    let ran = run_in(folder.path(), &server.api(), &["add", "many", "-o", "json"]).expect(0);
    assert_eq!(ran.stdout.lines().count(), 3_002);
    let add = one_add(&server);
    let is_right = |(n, added): (u32, &crate::fake::Added)| {
        Path::new(&added.entry.path) == Path::new("many").join(name(n)) && added.data == n.to_string().as_bytes()
    };
    assert!((0..).zip(&add.entries[1..]).all(is_right));
}
