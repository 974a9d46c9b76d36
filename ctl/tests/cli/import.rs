//! Long lists: streams that break, runs that end early, lines that are refused.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tonic::Status;

use crate::fake::{BulkEnd, Server};
use crate::runner::{Ran, cid, run, run_with_input, spawn};

struct List {
    folder: TempDir,
    file: PathBuf,
}

impl List {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("list");
        std::fs::write(&file, text).expect("writable");
        Self { folder, file }
    }

    fn of(count: u32) -> Self {
        Self::new(&(0..count).map(|n| format!("{}\n", cid(n))).collect::<String>())
    }

    fn path(&self) -> &str {
        self.file.to_str().expect("UTF-8")
    }

    fn beside(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    /// The line that the journal says is settled.
    fn journal_line(&self) -> Option<u64> {
        let text = std::fs::read_to_string(self.beside("list.progress")).ok()?;
        let journal: serde_json::Value = serde_json::from_str(&text).expect("always whole");
        journal["line"].as_u64()
    }
}

fn pins(server: &Server) -> usize {
    server.fake.pins.lock().expect("not poisoned").len()
}

#[test]
fn a_list_goes_over_one_stream() {
    let server = Server::start();
    let list = List::of(5_000);
    let ran = run(
        &server.api(),
        &["pin", "import", list.path(), "--replicas", "2", "-o", "json"],
    )
    .expect(0);
    let counts: serde_json::Value = serde_json::from_str(&ran.stdout).expect("one object");
    let expected = serde_json::json!({
        "lines": 5_000, "created": 5_000, "updated": 0, "unchanged": 0, "refused": 0, "resumed_at_line": 0
    });
    assert_eq!(counts, expected);
    assert_eq!(pins(&server), 5_000);
    assert_eq!(server.fake.calls("bulk_pin").len(), 1);
    assert_eq!(
        list.journal_line(),
        None,
        "the journal goes when the import is complete"
    );
    // Again: nothing changes.
    let ran = run(&server.api(), &["pin", "import", list.path(), "--replicas", "2"]).expect(0);
    assert_eq!(
        ran.stdout,
        "5,000 pins recorded: 0 created, 0 updated, 5,000 unchanged; 0 lines refused\n"
    );
}

#[test]
fn a_killed_peer_costs_nothing_but_a_reconnect() {
    let first = Server::start();
    let second = Server::with(Arc::clone(&first.fake));
    let (tell, told) = mpsc::channel();
    first
        .fake
        .script(|script| script.bulk_end = Some((1_234, BulkEnd::Kill(tell))));
    let list = List::of(6_000);
    let api = format!("{},{}", first.api(), second.api());
    let child = spawn(&api, &["pin", "import", list.path()]);
    let fake = Arc::clone(&first.fake);
    told.recv_timeout(Duration::from_secs(30))
        .expect("the stream came so far");
    drop(first);
    Ran::from(child.wait_with_output().expect("ends"))
        .expect(0)
        .says("the stream broke off");
    assert_eq!(fake.pins.lock().expect("not poisoned").len(), 6_000);
    let sent = fake.calls("item");
    assert!(
        sent.len() < 6_000 + 1_300,
        "{} items were sent, though 1,234 were answered before",
        sent.len()
    );
}

#[test]
fn a_run_that_fails_is_resumed_where_the_cluster_acknowledged() {
    let server = Server::start();
    let list = List::of(3_000);
    let broken = |after| (after, BulkEnd::Break(Status::internal("the disk is full")));
    server.fake.script(|script| script.bulk_end = Some(broken(1_111)));
    let ran = run(&server.api(), &["pin", "import", list.path()]).expect(1);
    ran.says("error: the disk is full")
        .says("1,111 lines are settled")
        .says("list.progress");
    assert_eq!(list.journal_line(), Some(1_111));

    let before = server.fake.calls("item").len();
    let ran = run(&server.api(), &["pin", "import", list.path(), "-o", "json"]).expect(0);
    let ran = ran.says("going on behind line 1,111 of");
    assert!(ran.stdout.contains(r#""created":3000"#), "{}", ran.stdout);
    assert!(ran.stdout.contains(r#""resumed_at_line":1111"#), "{}", ran.stdout);
    assert_eq!(server.fake.calls("item").len() - before, 3_000 - 1_111);
    assert_eq!(pins(&server), 3_000);
}

#[test]
fn an_interrupt_leaves_the_journal_right() {
    let server = Server::start();
    let list = List::of(3_000);
    server
        .fake
        .script(|script| script.bulk_end = Some((2_000, BulkEnd::Stall)));
    let child = spawn(&server.api(), &["pin", "import", list.path()]);
    let deadline = Instant::now() + Duration::from_secs(30);
    while list.journal_line() != Some(2_000) {
        assert!(Instant::now() < deadline, "the journal says {:?}", list.journal_line());
        std::thread::sleep(Duration::from_millis(20));
    }
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .expect("kill exists");
    assert!(killed.success());
    let ran = Ran::from(child.wait_with_output().expect("ends")).expect(130);
    ran.says("2,000 lines are settled")
        .says("the same command goes on behind them");
    assert_eq!(list.journal_line(), Some(2_000));
    run(&server.api(), &["pin", "import", list.path()]).expect(0);
    assert_eq!(server.fake.calls("item").len(), 3_000);
}

#[test]
fn another_list_is_not_resumed_by_mistake() {
    let server = Server::start();
    let list = List::of(100);
    server
        .fake
        .script(|script| script.bulk_end = Some((50, BulkEnd::Break(Status::internal("no")))));
    run(&server.api(), &["pin", "import", list.path()]).expect(1);
    std::fs::write(
        &list.file,
        (1_000..1_100).map(|n| format!("{}\n", cid(n))).collect::<String>(),
    )
    .expect("writable");
    run(&server.api(), &["pin", "import", list.path()])
        .expect(2)
        .says("is not the list")
        .says("--restart");
    run(&server.api(), &["pin", "import", list.path(), "--restart"]).expect(0);
    assert_eq!(pins(&server), 150);
}

#[test]
fn refused_lines_are_told_and_kept() {
    let server = Server::start();
    let good = cid(1);
    let text = format!(
        "# comment\n{good} photos\n\nnonsense\n{} refuse\n{{\"cid\":\"{}\",\"name\":\"j\",\"replication_min\":9}}\n\
         {{\"cid\":\"{}\",\"mode\":\"deep\"}}\n{}",
        cid(2),
        cid(3),
        cid(4),
        cid(5)
    );
    let list = List::new(&text);
    let rejects = list.beside("rejects");
    let ran = run(&server.api(), &["pin", "import", list.path(), "--rejects", &rejects]).expect(7);
    assert_eq!(
        ran.stdout,
        "3 pins recorded: 3 created, 0 updated, 0 unchanged; 3 lines refused\n"
    );
    let ran = ran
        .says("list:4: \"nonsense\" is not a CID")
        .says("list:5: 2 storage nodes are needed and 1 can take it");
    ran.says("(FAILED_PRECONDITION)")
        .says("list:7: mode \"deep\"")
        .says("error: 3 lines were refused");
    let kept = std::fs::read_to_string(&rejects).expect("written");
    let lines: Vec<&str> = kept.lines().collect();
    assert_eq!(lines.len(), 6);
    assert!(lines[0].starts_with("# line 4: \"nonsense\" is not a CID"), "{kept}");
    assert_eq!(lines[1], "nonsense");
    assert_eq!(lines[3], format!("{} refuse", cid(2)));

    // Corrected, the file of refused lines is a list.
    let corrected = kept
        .replace("refuse\n", "fine\n")
        .replace("deep", "direct")
        .replace("\nnonsense", "");
    std::fs::write(&rejects, corrected).expect("writable");
    run(&server.api(), &["pin", "import", &rejects]).expect(0);
    assert_eq!(pins(&server), 5);

    let hopeless = List::new("nonsense\n");
    run(&server.api(), &["pin", "import", hopeless.path()])
        .expect(4)
        .says("--rejects FILE");
}

#[test]
fn refused_lines_are_kept_once_across_runs() {
    let server = Server::start();
    let text: String = (0..40).map(|n| format!("{}\nbad-{n}\n", cid(n))).collect();
    let list = List::new(&text);
    let rejects = list.beside("rejects");
    server
        .fake
        .script(|script| script.bulk_end = Some((10, BulkEnd::Break(Status::internal("no")))));
    let ran = run(&server.api(), &["pin", "import", list.path(), "--rejects", &rejects]).expect(1);
    assert_eq!(ran.stderr.matches("is not a CID").count(), 10);
    // As if the run had been killed between the file of refused lines and the journal.
    let mut kept = std::fs::read(&rejects).expect("written");
    kept.extend_from_slice(b"# line 22: torn");
    std::fs::write(&rejects, kept).expect("writable");
    let ran = run(&server.api(), &["pin", "import", list.path(), "--rejects", &rejects]).expect(7);
    let ran = ran.says("further refused lines are only counted");
    assert_eq!(ran.stderr.matches("is not a CID").count(), 20);
    let kept = std::fs::read_to_string(&rejects).expect("written");
    assert_eq!(kept.lines().filter(|line| line.starts_with("bad-")).count(), 40);
    assert!(!kept.contains("torn"));
}

#[test]
fn an_item_that_can_not_be_taken_just_now_is_sent_again() {
    let server = Server::start();
    let list = List::new(&(0..10).map(|n| format!("{} later\n", cid(n))).collect::<String>());
    run(&server.api(), &["pin", "import", list.path()]).expect(0);
    assert_eq!(pins(&server), 10);
    assert_eq!(server.fake.calls("item").len(), 20);
}

#[test]
fn a_cluster_that_stays_away_ends_the_import() {
    let server = Server::start();
    let list = List::of(3);
    let api = server.api();
    drop(server);
    let ran = run(&api, &["pin", "import", list.path(), "--timeout", "500ms"]).expect(5);
    ran.says("no peer can be reached").says("the same command goes on");
    assert_eq!(
        list.journal_line(),
        None,
        "nothing was settled, so there is nothing to keep"
    );
}

#[test]
fn stdin_is_resumed_with_a_named_journal() {
    let server = Server::start();
    let list = List::of(500);
    let journal = list.beside("journal");
    let text = std::fs::read(&list.file).expect("readable");
    server
        .fake
        .script(|script| script.bulk_end = Some((123, BulkEnd::Break(Status::internal("no")))));
    let arguments = ["pin", "import", "-", "--journal", journal.as_str()];
    run_with_input(&server.api(), &arguments, &text)
        .expect(1)
        .says("123 lines are settled");
    run_with_input(&server.api(), &arguments, b"short")
        .expect(2)
        .says("stdin is shorter");
    run_with_input(&server.api(), &arguments, &text)
        .expect(0)
        .says("going on behind line 123");
    assert_eq!(server.fake.calls("item").len(), 500);
    // Without a journal the list is simply sent again.
    server
        .fake
        .script(|script| script.bulk_end = Some((5, BulkEnd::Break(Status::internal("no")))));
    run_with_input(&server.api(), &["pin", "import", "-"], &text)
        .expect(1)
        .says("sending the list again is safe");
}

#[test]
fn what_is_listed_can_be_imported() {
    let old = crate::scenes::cluster();
    let listed = run(&old.api(), &["pin", "ls", "-o", "json"]).expect(0).stdout;
    let new = Server::start();
    let list = List::new(&listed);
    run(&new.api(), &["pin", "import", list.path()]).expect(0);
    let again = run(&new.api(), &["pin", "ls", "-o", "json"]).expect(0).stdout;
    let wanted = |text: &str| -> Vec<serde_json::Value> {
        let fields = [
            "namespace",
            "cid",
            "slot",
            "name",
            "mode",
            "replication_min",
            "metadata",
            "origins",
        ];
        text.lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("an object"))
            .map(|pin| fields.iter().map(|field| pin[field].clone()).collect())
            .collect()
    };
    assert_eq!(wanted(&again), wanted(&listed));
}
