//! The fake Kubo as a process of its own, steered over HTTP.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use cluster_tests::fake_kubo::{Call, Snapshot};
use reqwest::StatusCode;
use rustix::process::{Pid, Signal, kill_process};

const CID: &str = "bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am";

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(arguments: &[&str]) -> (Process, serde_json::Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fake-kubo"))
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the fake starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe"))
        .read_line(&mut line)
        .expect("a line");
    (Process(child), serde_json::from_str(&line).expect("JSON"))
}

fn http() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .build()
        .expect("a client")
}

#[tokio::test]
async fn the_process_is_steered_over_http_and_stops_when_asked() {
    let (mut process, ready) = start(&["--bytes-per-pin", "1000", "--max-bytes", "1000000"]);
    assert_eq!(ready["pid"], process.0.id());
    let base = ready["address"].as_str().expect("address").to_owned();
    let http = http();
    let post = async |path: &str, body: &str| {
        let response = http
            .post(format!("{base}{path}"))
            .body(body.to_owned())
            .send()
            .await
            .expect("an answer");
        (response.status(), response.text().await.expect("a text"))
    };
    let state = async || -> Snapshot {
        http.get(format!("{base}/fake/state"))
            .send()
            .await
            .expect("an answer")
            .json()
            .await
            .expect("a snapshot")
    };
    let add = format!("/api/v0/pin/add?arg={CID}&progress=true");

    let (status, text) = post(&add, "").await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.ends_with(&format!("{{\"Pins\":[\"{CID}\"]}}\n")), "{text}");
    let listed = http
        .get(format!("{base}/fake/pins"))
        .send()
        .await
        .expect("an answer")
        .text()
        .await
        .expect("a text");
    assert_eq!(listed, format!("{CID} recursive\n"));
    let (_, stat) = post("/api/v0/repo/stat?size-only=true", "").await;
    assert!(stat.contains("\"RepoSize\":21000,\"StorageMax\":1000000"), "{stat}");

    // A fault, used up after one call.
    let rule = r#"{"fault":{"kind":"disk_full"},"call":"pin_add","times":1}"#;
    assert_eq!(post("/fake/faults", rule).await.0, StatusCode::NO_CONTENT);
    assert_eq!(state().await.rules, 1);
    let (status, text) = post(&add, "").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(text.contains("no space left on device"), "{text}");
    assert_eq!(post(&add, "").await.0, StatusCode::OK);

    // A setting, and what is not understood.
    assert_eq!(
        post("/fake/settings", r#"{"authorization":"Bearer x"}"#).await.0,
        StatusCode::NO_CONTENT
    );
    assert_eq!(post("/api/v0/id", "").await.0, StatusCode::FORBIDDEN);
    for (path, body) in [
        ("/fake/settings", r#"{"speed":7}"#),
        ("/fake/faults", r#"{"fault":{"kind":"explode"}}"#),
        ("/fake/faults", "x"),
        ("/fake/pins?arg=x", ""),
    ] {
        assert_eq!(post(path, body).await.0, StatusCode::BAD_REQUEST, "{path} {body}");
    }
    let state = state().await;
    assert_eq!(
        (state.pins, state.rules, state.calls[&Call::PinAdd].received),
        (1, 0, 3)
    );
    assert_eq!(state.calls[&Call::PinAdd].in_flight_max, 1);

    let pid = i32::try_from(process.0.id())
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process");
    kill_process(pid, Signal::TERM).expect("it runs");
    assert!(process.0.wait().expect("it ends").success());
}

#[tokio::test]
async fn what_other_clients_ask_is_answered_as_kubo_does() {
    let (_process, ready) = start(&[]);
    let base = ready["address"].as_str().expect("address").to_owned();
    let http = http();
    let call = async |path: &str| {
        let response = http
            .post(format!("{base}/api/v0/{path}"))
            .send()
            .await
            .expect("an answer");
        (response.status().as_u16(), response.text().await.expect("a text"))
    };
    assert_eq!(call(&format!("pin/add?arg=/ipfs/{CID}&recursive=false")).await.0, 200);
    let streamed = (200, format!("{{\"Cid\":\"{CID}\",\"Type\":\"direct\"}}\n"));
    assert_eq!(call(&format!("pin/ls?arg={CID}&type=all&stream=true")).await, streamed);
    assert_eq!(call("pin/ls?type=direct&stream=true").await, streamed);
    assert_eq!(call("pin/ls?type=recursive&stream=true").await, (200, String::new()));
    let (status, text) = call(&format!("pin/ls?arg={CID}&type=recursive")).await;
    assert!(
        status == 500 && text.contains(&format!("path '{CID}' is not pinned")),
        "{status} {text}"
    );
    let (status, text) = call("pin/add?arg=notacid").await;
    assert!(status == 500 && text.contains("invalid path"), "{status} {text}");
    assert_eq!(
        call("swarm/connect?arg=%2Fip4%2F192.0.2.1%2Ftcp%2F1%2Fp2p%2Fx").await.1,
        "{\"Strings\":[\"connect x success\"]}\n"
    );
    assert_eq!(call("no/such").await.0, 404);
    let get = http
        .get(format!("{base}/api/v0/id"))
        .send()
        .await
        .expect("an answer")
        .status();
    assert_eq!(get, StatusCode::METHOD_NOT_ALLOWED);
}
