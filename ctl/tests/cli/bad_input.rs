//! Whatever is typed wrong is refused before anything is sent, and the message names it.

use crate::fake::Server;
use crate::runner::{cid, run, run_with_input};

#[test]
fn wrong_command_lines_end_with_2_and_name_the_fault() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("list");
    std::fs::write(&list, format!("# a list\n{}\nnonsense here\n", cid(1))).expect("writable");
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "\n# nothing\n").expect("writable");
    let (list, empty) = (list.to_str().expect("UTF-8"), empty.to_str().expect("UTF-8"));
    let folder = folder.path().to_str().expect("UTF-8");
    let one = &cid(1);
    let long = &"x".repeat(1_025);
    let long_slot = &"x".repeat(129);
    let cases: &[(&[&str], &str)] = &[
        (&["frobnicate"], "frobnicate"),
        (&["pin"], "Usage"),
        (&["pin", "add"], "<CID>"),
        (&["pin", "add", "hello"], "\"hello\" is not a CID"),
        (&["pin", "add", one, "hello"], "\"hello\" is not a CID"),
        (&["pin", "add", ""], "it is empty"),
        (&["pin", "add", "/ipfs/bafy/readme"], "ipfs resolve /ipfs/bafy/readme"),
        (&["pin", "add", one, "-"], "stands alone"),
        (&["pin", "add", one, "--from", list], "cannot be used with"),
        (&["pin", "add", "--from", list], "list:3: \"nonsense\" is not a CID"),
        (&["pin", "add", "--from", empty], "has no CID in it"),
        (
            &["pin", "add", "--from", "/does/not/exist"],
            "can't read /does/not/exist",
        ),
        (&["pin", "add", "--from", folder], "it is a folder"),
        (&["pin", "add", one, "--replicas", "0"], "1 to 1000"),
        (&["pin", "add", one, "--replicas", "1001"], "1 to 1000"),
        (&["pin", "add", one, "--replicas", "two"], "--replicas"),
        (
            &["pin", "add", one, "--replicas", "2", "--min", "1"],
            "cannot be used with",
        ),
        (
            &["pin", "add", one, "--everywhere", "--max", "1"],
            "cannot be used with",
        ),
        (
            &["pin", "add", one, "--min", "3", "--max", "2"],
            "the minimum must not exceed the maximum",
        ),
        (&["pin", "add", one, "--mode", "deep"], "recursive, direct"),
        (&["pin", "add", one, "--name", long], "name"),
        (&["pin", "add", one, "--slot", long_slot], "slot"),
        (&["pin", "add", one, "--namespace", "A B"], "namespace \"A B\""),
        (&["pin", "add", one, "--node", "a b"], "node \"a b\""),
        (&["pin", "add", one, "--meta", "novalue"], "KEY=VALUE"),
        (&["pin", "add", one, "--meta", "=x"], "KEY=VALUE"),
        (&["pin", "add", one, "--origin", "/ip4/1.2.3.4/tcp/1"], "/p2p/"),
        (&["pin", "add", one, "--expire-in", "2"], "not a duration"),
        (&["pin", "add", one, "--expire-in", "10ms"], "at least 1s"),
        (&["pin", "add", one, "--expire-at", "tomorrow"], "RFC 3339"),
        (
            &["pin", "add", one, "--expire-at", "2020-01-01T00:00:00Z"],
            "in the future",
        ),
        (
            &[
                "pin",
                "add",
                one,
                "--expire-at",
                "2040-01-01T00:00:00Z",
                "--expire-in",
                "1d",
            ],
            "cannot be used with",
        ),
        (&["pin", "add", one, "--wait-timeout", "5s"], "--wait"),
        (&["pin", "rm"], "<CID>"),
        (&["pin", "rm", "hello"], "\"hello\" is not a CID"),
        (&["pin", "rm", one, "--namespace", "-x"], "'-x'"),
        (&["pin", "update", one], "<TO>"),
        (&["pin", "update", one, one], "the same CID"),
        (&["pin", "update", one, "x"], "\"x\" is not a CID"),
        (
            &["pin", "update", one, &cid(2), "--expire-at", "2020-01-01T00:00:00Z"],
            "in the future",
        ),
        (&["pin", "ls", "hello"], "\"hello\" is not a CID"),
        (&["pin", "ls", "--limit", "0"], "--limit"),
        (&["pin", "ls", "--limit", "-1"], "'-1'"),
        (&["pin", "ls", "--created-after", "yesterday"], "RFC 3339"),
        (&["pin", "ls", "--node", "?"], "node \"?\""),
        (&["pin", "ls", "--namespace", "Ü"], "namespace"),
        (
            &["pin", "status", "--filter", "pinned,lost"],
            "use one of queued, pinning",
        ),
        (&["pin", "status", "hello"], "\"hello\" is not a CID"),
        (&["pin", "explain", "hello"], "\"hello\" is not a CID"),
        (&["pin", "explain", one, "--node", "a/b"], "node \"a/b\""),
        (&["pin", "recover"], "--all"),
        (&["pin", "recover", "--all", "--node", "n1"], "cannot be used with"),
        (
            &["pin", "recover", "--all", "--status", "pinned"],
            "only gave_up, retrying and unpinning",
        ),
        (
            &["pin", "recover", "--all", "--class", "bad luck"],
            "use one of temporary",
        ),
        (&["pin", "recover", "hello"], "\"hello\" is not a CID"),
        (&["pin", "import"], "<FILE>"),
        (&["pin", "import", "/does/not/exist"], "can't read /does/not/exist"),
        (&["pin", "import", folder], "it is a folder"),
        (
            &["pin", "import", list, "--rejects", list],
            "--rejects names the list itself",
        ),
        (
            &["pin", "import", list, "--rejects", "/does/not/exist"],
            "can't write /does/not/exist",
        ),
        (&["pin", "import", list, "--format", "xml"], "auto, lines, json"),
        (&["pin", "import", list, "--namespace", "A"], "namespace \"A\""),
        (&["add"], "<PATH>"),
        (&["add", "/does/not/exist"], "can't read /does/not/exist"),
        (&["add", list, "--replicas", "0"], "1 to 1000"),
        (&["add", list, "--mode", "direct"], "pinned recursively"),
        (&["add", list, "--namespace", "A"], "namespace \"A\""),
        (&["add", list, "--profile", "best"], "unixfs-v1-2025, unixfs-v0-2015"),
        (&["add", list, "--cid-version", "2"], "--cid-version"),
        (
            &["add", list, "--cid-version", "0", "--hash", "blake3"],
            "no CIDs of version 0",
        ),
        (&["add", list, "--hash", "md5"], "blake2b-256"),
        (&["add", list, "--chunker", "size-0"], "size-262144"),
        (&["add", list, "--chunker", "rabin-1-2"], "size-262144"),
        (&["add", list, "--max-hamt-fanout", "100"], "power of two"),
        (&["add", list, "--raw-leaves", "--preserve-mode"], "no place for mode"),
        (&["add", list, "--ignore", "["], "not a pattern"),
        (&["add", list, "--car", "--trickle"], "cannot be used with"),
        (&["add", list, "--no-pin", "--wait"], "cannot be used with"),
        (&["add", list, "--wait-timeout", "5s"], "--wait"),
        (&["get"], "<CID[/PATH]>"),
        (&["get", "hello"], "\"hello\" is not a CID"),
        (&["get", "/ipns/example.org"], "ipfs resolve /ipns/example.org"),
        (&["get", one, "--to", list], "is there already"),
        (&["get", one, "--to", "/does/not/exist"], "can't write /does/not/exist"),
        (&["get", one, "--tar", "--symlinks"], "cannot be used with"),
        (&["get", one, "--tar", "--to", folder], "it is a directory"),
        (&["cat", "hello/x"], "\"hello\" is not a CID"),
        (&["cat", one, "--length", "0"], "--length"),
        (&["cat", one, "--offset", "-1"], "'-1'"),
        (&["get", one, "--car", "--to", list], "is there already"),
        (&["peer", "rm"], "<PEER>"),
        (&["peer", "rm", "a b"], "a b"),
        (&["peer", "join-token", "--valid-for", "8d"], "at most 7d"),
        (&["node", "add", "n7", "http://a:5001"], "\"n7\" is not valid"),
        (&["node", "add", "kubo 1", "http://a:5001"], "\"kubo 1\" is not valid"),
        (&["node", "add", "kubo-1", "a:5001"], "is not the address of an RPC"),
        (&["node", "add", "kubo-1", "http://a:5001", "--weight", "0"], "above 0"),
        (
            &["node", "add", "kubo-1", "http://a:5001", "--weight", "NaN"],
            "above 0",
        ),
        (
            &["node", "add", "kubo-1", "http://a:5001", "--tag", "zone"],
            "KEY=VALUE",
        ),
        (&["node", "rm", "a b"], "node \"a b\""),
        (&["node", "cordon", ""], "node \"\""),
        (&["node", "show"], "<NODE>"),
        (&["node", "show", "a b"], "node \"a b\""),
        (&["node", "show", "kubo-1", "kubo-2"], "kubo-2"),
        (&["node", "gc"], "<NODE>"),
        (&["node", "gc", ""], "node \"\""),
        (&["node", "gc", "--all"], "--all"),
        (&["watch", "--after", "now"], "--after"),
        (&["watch", "--namespace", "A"], "namespace \"A\""),
        (&["settings", "set"], "--replicas"),
        (&["settings", "set", "--replicas", "0"], "--replicas"),
        (
            &["settings", "set", "--min", "3", "--max", "2"],
            "--min 3 exceeds --max 2",
        ),
        (&["settings", "set", "--spread", "a,b,c,d,e"], "at most 4"),
        (&["settings", "set", "--spread", "a,,b"], "empty tag"),
        (&["completion", "tcsh"], "bash"),
        (&["status", "--api", "host"], "HOST:PORT"),
        (&["status", "--api", "https://host:1"], "no TLS"),
        (&["status", "--timeout", "30"], "not a duration"),
        (&["status", "--timeout", "1ms"], "at least 10ms"),
        (&["status", "--output", "yaml"], "table, json"),
        (&["status", "--width", "5"], "--width"),
    ];
    for (arguments, expected) in cases {
        let ran = run(&server.api(), arguments);
        let all = format!("{arguments:?}: {}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.code, 2, "{all}");
        assert!(ran.stdout.is_empty(), "{all}");
        assert!(ran.stderr.contains(expected), "{expected:?} is missing: {all}");
        // Two lines of error text and the usage; nobody reads a screen full.
        assert!(ran.stderr.len() < 4_000, "{all}");
    }
    let calls = server.fake.calls.lock().expect("not poisoned");
    assert!(calls.is_empty(), "something was sent: {calls:?}");
}

#[test]
fn a_list_is_checked_to_its_end_before_the_first_cid_is_sent() {
    let server = Server::start();
    let mut list: String = (0..500).map(|n| format!("{}\n", cid(n))).collect();
    list += "bafybroken\n";
    for command in ["add", "rm", "status"] {
        let ran = run_with_input(&server.api(), &["pin", command, "-"], list.as_bytes()).expect(2);
        ran.says("stdin:501: \"bafybroken\" is not a CID");
    }
    run_with_input(&server.api(), &["pin", "add", "-"], &[0xff, 0xfe, b'\n'])
        .expect(2)
        .says("is not a CID");
    run_with_input(&server.api(), &["pin", "add", "-"], &vec![b'x'; 1 << 20])
        .expect(2)
        .says("is not a CID");
    assert!(server.fake.calls.lock().expect("not poisoned").is_empty());
}
