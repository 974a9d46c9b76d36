//! Pinsets of IPFS Cluster, in and out.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::fake::Server;
use crate::runner::{cid, run_in};

const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

fn line(n: u32, change: impl FnOnce(&mut Value)) -> String {
    let mut pin = json!({
        "replication_factor_min": 1, "replication_factor_max": 2, "name": format!("pin {n}"), "mode": "recursive",
        "shard_size": 0, "user_allocations": null, "expire_at": "0001-01-01T00:00:00Z", "metadata": {"n": n.to_string()},
        "pin_update": null, "origins": [], "cid": cid(n), "type": "pin", "allocations": [PEER], "max_depth": -1,
        "reference": null, "timestamp": "2026-05-11T10:20:30Z",
    });
    change(&mut pin);
    format!("{pin}\n")
}

fn lines(count: u32) -> String {
    (0..count).map(|n| line(n, |_| {})).collect()
}

fn objects(stdout: &str) -> Vec<Value> {
    stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

struct Scene {
    server: Server,
    folder: tempfile::TempDir,
}

impl Scene {
    fn new(list: &str) -> Self {
        let scene = Self {
            server: Server::start(),
            folder: tempfile::tempdir().expect("a folder"),
        };
        fs::write(scene.at("pins.jsonl"), list).expect("written");
        scene
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> crate::runner::Ran {
        run_in(self.folder.path(), &self.server.api(), arguments)
    }

    fn import(&self, more: &[&str]) -> crate::runner::Ran {
        self.run(&[&["import", "--from", "ipfs-cluster", "pins.jsonl"], more].concat())
    }
}

#[test]
fn a_list_is_imported_and_compared() {
    let expired = line(2_500, |pin| pin["expire_at"] = "2020-01-01T00:00:00Z".into());
    let scene = Scene::new(&(lines(2_500) + &expired));
    let ran = scene
        .import(&["--map", &format!("{PEER}=kubo-3"), "-o", "json"])
        .expect(0);
    let said = objects(&ran.stdout);
    assert_eq!(said[0]["created"], 2_500);
    let equal = json!({"pins": 2_500, "equal": 2_500, "missing": 0, "different": 0, "moved": 0, "passed_over": 1,
                       "refused": 0, "others": 0});
    assert_eq!(said[1], equal);
    let pin = scene.server.fake.pins.lock().expect("not poisoned")[&cid(7)].clone();
    assert_eq!(pin.nodes, ["kubo-3"], "it stays where it is");
    assert_eq!(pin.created.map(|created| created.seconds), Some(1_778_494_830));

    // What goes out is what came in.
    scene
        .run(&["export", "out.jsonl", "--map", &format!("kubo-1={PEER}")])
        .expect(2)
        .says("there is no such storage node");
    scene.run(&["export", "out.jsonl", "-o", "json"]).expect(0);
    let written = objects(&fs::read_to_string(scene.at("out.jsonl")).expect("written"));
    assert_eq!(written.len(), 2_500);
    let mut expected: Value = serde_json::from_str(&line(7, |_| {})).expect("JSON");
    expected["allocations"] = json!([]);
    assert!(written.contains(&expected), "{:#?}", written[0]);
    scene.run(&["export", "out.jsonl"]).expect(2).says("there already");
    let stdout = scene.run(&["export"]).expect(0).stdout;
    assert_eq!(stdout, fs::read_to_string(scene.at("out.jsonl")).expect("written"));
}

#[test]
fn what_can_not_be_taken_over_is_kept_and_said() {
    let shard = line(10, |pin| pin["type"] = "shard-pin".into());
    let broken = "{\"cid\": \"abcd\"}\n";
    let refused = line(11, |pin| pin["name"] = "refuse".into());
    let scene = Scene::new(&(lines(3) + &shard + broken + &refused));
    let ran = scene.import(&["--rejects", "rejects"]).expect(7);
    ran.says("3 lines were refused");
    let rejects = fs::read_to_string(scene.at("rejects")).expect("written");
    assert_eq!(rejects.lines().filter(|line| line.starts_with("# line")).count(), 3);
    let ran = scene.import(&["--verify-only", "-o", "json"]).expect(7);
    let said = objects(&ran.stdout);
    assert_eq!(said.len(), 1, "nothing is imported");
    assert_eq!(
        (said[0]["missing"].as_u64(), said[0]["refused"].as_u64()),
        (Some(1), Some(2))
    );
    let ran = scene
        .import(&["--sharded", "whole", "--verify-only", "-o", "json"])
        .expect(7);
    assert_eq!(objects(&ran.stdout)[0]["passed_over"], 1);
}

#[test]
fn every_difference_is_found() {
    let scene = Scene::new(&lines(30));
    scene.import(&[]).expect(0).says("follow the content");
    {
        let mut pins = scene.server.fake.pins.lock().expect("not poisoned");
        pins.remove(&cid(3));
        pins.get_mut(&cid(4)).expect("there").name = "another".into();
        let mut extra = pins[&cid(5)].clone();
        extra.cid = cid(99);
        pins.insert(extra.cid.clone(), extra);
    }
    let ran = scene
        .import(&["--verify-only", "--differences", "differences", "-o", "json"])
        .expect(7);
    let counts = &objects(&ran.stdout)[0];
    let of = |field: &str| counts[field].as_u64().expect("a count");
    assert_eq!(
        (of("equal"), of("missing"), of("different"), of("others")),
        (28, 1, 1, 1)
    );
    ran.says("it is not here");
    let written = objects(&fs::read_to_string(scene.at("differences")).expect("written"));
    let different = json!({"cid": cid(4), "differences": [{"field": "name", "was": "pin 4", "is": "another"}]});
    assert!(written.contains(&different), "{written:?}");
    assert!(written.contains(&json!({"cid": cid(3), "differences": null})));

    // No file that is there is emptied, least of all the list.
    let list = fs::read_to_string(scene.at("pins.jsonl")).expect("the list");
    scene
        .import(&["--verify-only", "--differences", "differences"])
        .expect(2)
        .says("there already");
    for option in ["--differences", "--rejects", "--journal"] {
        for name in ["pins.jsonl", "./pins.jsonl"] {
            scene.import(&[option, name]).expect(2).says("names the list itself");
        }
    }
    assert_eq!(fs::read_to_string(scene.at("pins.jsonl")).expect("the list"), list);
}

#[test]
fn wrong_words_are_refused_before_anything_is_sent() {
    let scene = Scene::new(&lines(3));
    for (arguments, says) in [
        (&["import", "pins.jsonl"][..], "--from"),
        (&["import", "--from", "ipfs-cluster"], "--from-url"),
        (&["import", "--from", "ipfs-cluster", "-"], "stdin can't be read twice"),
        (&["import", "--from", "ipfs-cluster", "none.jsonl"], "can't read"),
        (
            &["import", "--from", "ipfs-cluster", "pins.jsonl", "--map", "x=y"],
            "no peer ID",
        ),
        (
            &[
                "import",
                "--from",
                "ipfs-cluster",
                "pins.jsonl",
                "--from-url",
                "http://x",
            ],
            "cannot be used",
        ),
        (&["import", "--from", "ipfs-cluster", "--from-url", "x"], "from-url"),
        (&["export", "--map", "kubo-1=x"], "no peer ID"),
    ] {
        let ran = scene.run(arguments).expect(2);
        assert!(ran.stderr.contains(says), "{arguments:?}: {}", ran.stderr);
    }
    assert_eq!(scene.server.fake.calls("bulk_pin").len(), 0);
}

/// Answers requests one after the other, each with the next of these, and returns their heads.
fn old_cluster(answers: Vec<String>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let served = std::thread::spawn(move || {
        let mut heads = Vec::new();
        for answer in answers {
            let (mut connection, _) = listener.accept().expect("a client");
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && connection.read(&mut byte).expect("readable") > 0 {
                head.push(byte[0]);
            }
            heads.push(String::from_utf8(head).expect("text"));
            connection.write_all(answer.as_bytes()).expect("taken");
        }
        heads
    });
    (url, served)
}

fn answer(body: &str, trailer: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nTrailer: X-Stream-Error\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{body}\r\n0\r\nX-Stream-Error: {trailer}\r\n\r\n",
        body.len()
    )
}

#[test]
fn a_list_that_broke_off_is_not_taken_for_a_whole_one() {
    let scene = Scene::new("");
    let peers = answer("{\"id\":\"a\",\"ipfs\":{\"id\":\"b\"}}\n", "");
    let cut = answer(&lines(5), "x")
        .rsplit_once("0\r\n")
        .map(|(head, _)| head.to_owned())
        .expect("chunks");
    for (list, says) in [
        (answer(&lines(5), "the state is gone"), "the state is gone"),
        (cut, "broke off"),
        (answer(&lines(5)[..700], ""), "in the middle of a line"),
        (
            "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno".into(),
            "--from-auth-file",
        ),
    ] {
        let (url, served) = old_cluster(vec![peers.clone(), list]);
        let ran = scene.run(&["import", "--from", "ipfs-cluster", "--from-url", &url, "--list", "list"]);
        assert_ne!(ran.code, 0);
        assert!(ran.stderr.contains(says), "{says}: {}", ran.stderr);
        served.join().expect("served");
        assert!(!Path::new(&scene.at("list")).exists(), "{says}");
    }
    assert_eq!(scene.server.fake.calls("bulk_pin").len(), 0);

    fs::write(scene.at("auth"), "basic:user:pass:word\n").expect("written");
    let (url, served) = old_cluster(vec![peers, answer(&lines(5), "")]);
    let import = [
        "import",
        "--from",
        "ipfs-cluster",
        "--from-url",
        &url,
        "--list",
        "list",
        "--from-auth-file",
        "auth",
    ];
    scene.run(&import).expect(0).says("5 pins are in list");
    let heads = served.join().expect("served");
    assert!(heads[1].starts_with("GET /allocations?filter=all "), "{}", heads[1]);
    let shown = "authorization: Basic dXNlcjpwYXNzOndvcmQ=";
    assert!(
        heads
            .iter()
            .all(|head| head.to_lowercase().contains(&shown.to_lowercase())),
        "{heads:?}"
    );
    // An import that is done is no reason to take the old list for what the cluster has now.
    scene.run(&import).expect(5).says("takes it from there");
    let ran = scene.run(&["import", "--from", "ipfs-cluster", "list"]).expect(0);
    assert!(ran.stdout.contains("5 as they were"), "{}", ran.stdout);
    // It is asked anew, and what it says now is compared.
    let (url, served) = old_cluster(vec![answer("", ""), answer(&lines(3), "")]);
    let anew = [
        "import",
        "--from",
        "ipfs-cluster",
        "--from-url",
        &url,
        "--list",
        "list",
        "--verify-only",
    ];
    let ran = scene.run(&anew).expect(0);
    assert!(ran.stdout.contains("3 as they were"), "{}", ran.stdout);
    served.join().expect("served");
    // What is not its own it does not replace.
    fs::write(scene.at("mine"), "mine").expect("written");
    let mine = ["import", "--from", "ipfs-cluster", "--from-url", &url, "--list", "mine"];
    scene.run(&mine).expect(2).says("was not read from a cluster");
}
