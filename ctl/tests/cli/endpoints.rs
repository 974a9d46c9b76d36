//! Which peer is asked, how often, and how it ends when none answers.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use cluster_proto::v1;
use tonic::Status;

use crate::fake::{Fault, Server, no_leader};
use crate::runner::{Ran, cid, command, run};
use crate::scenes::cluster;

/// An address where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

#[test]
fn an_unreachable_peer_is_passed_over() {
    let server = cluster();
    let api = format!("{},{}", nobody(), server.api());
    let ran = run(&api, &["pin", "ls", "--count"]).expect(0).says("does not answer");
    assert_eq!(ran.stdout, "3\n");
    let quiet = run(&api, &["pin", "ls", "--count", "--quiet"]).expect(0);
    assert_eq!(quiet.stderr, "");
    // Repeated options do the same as a list.
    run(
        &nobody(),
        &["--api", &nobody(), "--api", &server.api(), "pin", "ls", "--count"],
    )
    .expect(0);
}

#[test]
fn a_hung_peer_does_not_use_up_the_time_of_the_others() {
    let hung = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let server = cluster();
    let api = format!("{},{}", hung.local_addr().expect("bound"), server.api());
    run(&api, &["status", "--timeout", "2s"])
        .expect(0)
        .says("no answer within");
}

#[test]
fn nobody_answers() {
    let ran = run(&nobody(), &["status"])
        .expect(5)
        .says("no peer can be reached")
        .says("hint: is cluster-node running");
    assert!(ran.stdout.is_empty());
    run(&nobody(), &["pin", "add", &cid(1)])
        .expect(5)
        .says("Connection refused");
}

#[test]
fn a_write_is_repeated_under_its_request_id() {
    let server = Server::start();
    server
        .fake
        .fault("pin", Fault::Status(no_leader(Duration::from_millis(20))));
    server
        .fake
        .fault("pin", Fault::Status(no_leader(Duration::from_millis(20))));
    run(&server.api(), &["pin", "add", &cid(1)])
        .expect(0)
        .says("see each other; trying again in 20ms");
    let ids = server.fake.calls("pin");
    assert_eq!(ids.len(), 3);
    assert!(!ids[0].is_empty() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    run(&server.api(), &["pin", "add", &cid(1)]).expect(0);
    assert_ne!(
        server.fake.calls("pin")[3],
        ids[0],
        "another command is another request"
    );
}

#[test]
fn a_write_without_an_answer_is_tried_elsewhere_under_its_request_id() {
    let first = Server::start();
    let second = Server::with(std::sync::Arc::clone(&first.fake));
    first.fake.fault("pin", Fault::Hang);
    let api = format!("{},{}", first.api(), second.api());
    run(&api, &["pin", "add", &cid(1), "--timeout", "1s"]).expect(0);
    let ids = first.fake.calls("pin");
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn a_refusal_to_wait_longer_than_the_timeout_ends_at_once() {
    let server = Server::start();
    server
        .fake
        .fault("pin", Fault::Status(no_leader(Duration::from_secs(60))));
    let started = Instant::now();
    let ran = run(&server.api(), &["pin", "add", &cid(1), "--timeout", "20s"]).expect(5);
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "it waited for what could not help"
    );
    ran.says("error: no leader could be reached")
        .says("a majority of the voters")
        .says("wait 1m");
}

#[test]
fn codes_become_exit_codes() {
    let server = Server::start();
    let one = cid(1);
    let cases: Vec<(Status, i32, &str)> = vec![
        (
            Status::invalid_argument("options.name: too long"),
            4,
            "error: options.name: too long",
        ),
        (
            Status::permission_denied("scope pins:write is missing"),
            4,
            "scope pins:write",
        ),
        (Status::already_exists("there is a node kubo-1"), 4, "there is a node"),
        (Status::internal("the disk is on fire"), 1, "the log of the peer"),
        (Status::unimplemented(""), 1, "older version"),
        (Status::aborted("the pin changed meanwhile"), 5, "run the command again"),
        (Status::not_found("no such pin"), 3, "no such pin"),
        (
            Status::internal("line one\nline \x1b[31mtwo"),
            1,
            "line one\\nline \\u{1b}[31mtwo",
        ),
    ];
    for (status, code, text) in cases {
        server.fake.fault("explain", Fault::Status(status));
        let ran = run(&server.api(), &["pin", "explain", &one]).expect(code).says(text);
        assert_eq!(ran.stdout, "");
    }
    server.fake.fault("pin", Fault::Hang);
    run(&server.api(), &["pin", "add", &one, "--timeout", "200ms"])
        .expect(6)
        .says("is not known");
    server.fake.fault("cluster_status", Fault::Hang);
    run(&server.api(), &["status", "--timeout", "200ms"])
        .expect(6)
        .says("--timeout allows more time");
}

#[test]
fn a_list_that_breaks_off_goes_on_behind_its_cursor() {
    let server = Server::start();
    for n in 0..2_500 {
        server.fake.put(v1::Pin {
            cid: cid(n),
            ..v1::Pin::default()
        });
    }
    // The order of the texts is not that of the numbers.
    let mut cids: Vec<String> = (0..2_500).map(cid).collect();
    cids.sort();
    server.fake.script(|script| script.list_breaks = true);
    let ran = run(&server.api(), &["pin", "ls", "-o", "json"])
        .expect(0)
        .says("going on");
    assert_eq!(ran.stdout.lines().count(), 2_500);
    server.fake.script(|script| script.list_breaks = true);
    let limited = run(&server.api(), &["pin", "ls", "--limit", "1500"])
        .expect(0)
        .says(&format!("--cursor {}", cids[1_499]));
    // The header is the one line more; the columns of the second batch stand under those of the first.
    assert_eq!(limited.stdout.lines().count(), 1_501);
    let columns: std::collections::BTreeSet<_> = limited.stdout.lines().skip(1).map(|line| line.find("bafk")).collect();
    assert_eq!(columns.len(), 1);
    assert_eq!(server.fake.calls("list"), ["", &cids[999], "", &cids[999]]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let server = Server::start();
    for n in 0..5_000 {
        server.fake.put(v1::Pin {
            cid: cid(n),
            ..v1::Pin::default()
        });
    }
    let mut child = command(&server.api(), &["pin", "ls"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    drop(child.stdout.take());
    let ran = Ran::from(child.wait_with_output().expect("ends")).expect(0);
    assert_eq!(ran.stderr, "");
}
