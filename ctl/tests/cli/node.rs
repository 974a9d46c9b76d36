//! `node show` and `node gc`: sessions that are compared are in `golden.rs`; here is how they end.

use std::collections::HashMap;
use std::sync::mpsc;

use cluster_proto::v1;
use serde_json::Value;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::fake::{BulkEnd, Fault, Server};
use crate::runner::{run, signal, spawn};
use crate::scenes::embedded;

fn driver_silent() -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info("DRIVER_SILENT", "pinfleet", HashMap::new());
    let message = "peer peer-b, which drives the node, does not answer: it is silent";
    Status::with_error_details(Code::Unavailable, message, details)
}

fn progress(server: &Server) {
    server.fake.script(|script| {
        script.collecting = vec![v1::GarbageProgress {
            done: 0.25,
            looks: 1,
            scanned: 1_000,
            deleted_blocks: 10,
            deleted_bytes: 2_560,
        }];
    });
}

#[test]
fn a_silent_driver_is_asked_once() {
    let server = embedded();
    for arguments in [["node", "show", "node-4"], ["node", "gc", "node-4"]] {
        let method = if arguments[1] == "show" {
            "node"
        } else {
            "collect_garbage"
        };
        server.fake.fault(method, Fault::Status(driver_silent()));
        run(&server.api(), &arguments)
            .expect(5)
            .says("which drives the node, does not answer")
            .says("cluster-ctl peer ls");
        assert_eq!(server.fake.calls(method).len(), 1);
    }
}

#[test]
fn a_collection_that_breaks_off_says_what_that_means() {
    let server = embedded();
    progress(&server);
    let ends = [
        (
            BulkEnd::Break(Status::failed_precondition("the node shuts down")),
            4,
            "the node shuts down",
        ),
        (BulkEnd::Break(driver_silent()), 5, "does not answer"),
        // The stream ends in good order, and without a last word.
        (BulkEnd::Break(Status::new(Code::Ok, "")), 5, "before its last word"),
    ];
    for (end, code, words) in ends {
        server.fake.script(|script| script.collect_end = Some(end));
        let ran = run(&server.api(), &["node", "gc", "node-4"]);
        let ran = ran.expect(code).says(words).says("the rest stays until the next time");
        assert_eq!(ran.stdout, "");
    }
    // Nothing was deleted by an estimate.
    server
        .fake
        .script(|script| script.collect_end = Some(BulkEnd::Break(Status::new(Code::Ok, ""))));
    let ran = run(&server.api(), &["node", "gc", "node-4", "--estimate"]).expect(5);
    assert!(!ran.stderr.contains("deleted"), "{}", ran.stderr);
}

#[test]
fn a_peer_that_dies_or_says_nothing_ends_it() {
    let server = embedded();
    progress(&server);
    let (tell, told) = mpsc::channel();
    server.fake.script(|script| script.collect_end = Some(BulkEnd::Stall));
    run(&server.api(), &["node", "gc", "node-4", "--timeout", "300ms"])
        .expect(6)
        .says("nothing was heard for 300ms");
    server
        .fake
        .script(|script| script.collect_end = Some(BulkEnd::Kill(tell)));
    let child = spawn(&server.api(), &["node", "gc", "node-4"]);
    told.recv().expect("told");
    drop(server);
    let ran: crate::runner::Ran = child.wait_with_output().expect("ends").into();
    let ran = ran.expect(5);
    // It may have died before or after the head of its answer had left it.
    let words = ["the stream broke off", "no peer can be reached"];
    assert!(words.iter().any(|words| ran.stderr.contains(words)), "{}", ran.stderr);
}

#[test]
fn an_interruption_ends_it_and_says_what_is_left() {
    let server = embedded();
    progress(&server);
    server.fake.script(|script| script.collect_end = Some(BulkEnd::Stall));
    let child = spawn(&server.api(), &["node", "gc", "node-4"]);
    server.fake.until_called("stalled");
    signal(&child, "-INT");
    let ran: crate::runner::Ran = child.wait_with_output().expect("ends").into();
    ran.expect(130).says("the rest stays until the next time");
}

#[test]
fn every_field_is_there_and_nothing_is_one_object() {
    let server = embedded();
    let shown = |name: &str| -> Value {
        let ran = run(&server.api(), &["node", "show", name, "--output", "json"]).expect(0);
        assert_eq!(ran.stdout.lines().count(), 1);
        serde_json::from_str(&ran.stdout).expect("an object")
    };
    let (busy, troubled, kubo) = (shown("node-4"), shown("node-5"), shown("kubo-1"));
    /// The paths of all fields, those in lists left out.
    fn fields(value: &Value, path: &str, into: &mut Vec<String>) {
        for (name, value) in value.as_object().into_iter().flatten() {
            into.push(format!("{path}.{name}"));
            fields(value, &format!("{path}.{name}"), into);
        }
    }
    let of = |value: &Value| {
        let mut found = Vec::new();
        fields(value, "", &mut found);
        found.retain(|path| !path.starts_with(".node.tags."));
        found
    };
    assert_eq!(of(&busy), of(&troubled));
    assert!(kubo["embedded"].is_null() && kubo["repo_bytes"] == 549_755_813_888_u64);
    assert_eq!(busy["embedded"]["announcing"]["behind"], 0);
    assert_eq!(troubled["embedded"]["announcing"]["late_ms"], 14_400_000);
    assert_eq!(busy["embedded"]["network"]["peers"][1]["latency_us"], Value::Null);
}
