//! The gateway of a real Kubo, asked for the same.

#[path = "../../dag/tests/support/mod.rs"]
mod kubo;
mod support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use cluster_content::import_car;
use cluster_gateway::{GatewayOptions, gateway, limits};
use serde_json::{Value, json};

use kubo::Kubo;
use support::{Served, Store, client, noise, read_car};

/// A daemon whose gateway listens on a free port of loopback, without a network.
struct Daemon {
    child: Child,
    url: String,
}

impl Daemon {
    fn start(kubo: &Kubo) -> Self {
        // In one go: each `ipfs config` takes as long as it takes to start.
        let path = kubo.path("repo/config");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("a config")).expect("JSON");
        config["Addresses"]["Gateway"] = "/ip4/127.0.0.1/tcp/0".into();
        config["Addresses"]["API"] = "/ip4/127.0.0.1/tcp/0".into();
        config["Addresses"]["Swarm"] = json!([]);
        config["Gateway"]["NoFetch"] = true.into();
        config["AutoTLS"] = json!({ "Enabled": false });
        config["AutoConf"] = json!({ "Enabled": false });
        config["Bootstrap"] = json!([]);
        config["DNS"] = json!({ "Resolvers": {} });
        config["Routing"] = json!({ "Type": "none" });
        config["Ipns"] = json!({});
        fs::write(&path, config.to_string()).expect("written");
        let mut child = Command::new(kubo::binary())
            .args(["daemon", "--offline"])
            .env("IPFS_PATH", kubo.path("repo"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let url = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let address = line.split("Gateway server listening on /ip4/127.0.0.1/tcp/").nth(1)?;
            Some(format!("http://127.0.0.1:{}", address.trim()))
        });
        // Whoever writes to a pipe that nobody reads is killed.
        std::thread::spawn(move || lines.for_each(drop));
        let mut daemon = Self {
            child,
            url: String::new(),
        };
        daemon.url = url.expect("it says where its gateway listens");
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn answers_are_those_of_kubo() {
    let kubo = Kubo::new(&[]);
    let root = kubo.path("folder");
    fs::create_dir_all(root.join("wide")).expect("made");
    fs::write(root.join("large"), noise(3_000_000, 1)).expect("written");
    fs::write(root.join("same"), vec![7; 2_000_000]).expect("written");
    for number in 0..1300 {
        fs::write(root.join(format!("wide/{number:0200}")), number.to_string()).expect("written");
    }
    let cid = kubo.path_cid(&[], &root);
    let store = Store::new();
    let exported = futures::stream::iter([Ok::<_, String>(Bytes::from(kubo.export(&cid)))]);
    import_car(exported, store.clone()).await.expect("good");
    let daemon = Daemon::start(&kubo);
    let router = gateway::router(store.clone() as Arc<_>, GatewayOptions::default());
    let served = Served::new(router, limits()).await;
    let http = client();
    let get = |base: String, accept: &'static str| {
        let request = http.get(base).header("accept", accept);
        async move {
            let answer = request.send().await.expect("answered");
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            (status, headers, answer.bytes().await.expect("whole"))
        }
    };
    // All of them, so that one run tells everything.
    let mut differences = Vec::new();
    let deep = format!("wide/{:0200}", 1234);
    for (path, accept) in [
        ("?format=raw", "*/*"),
        ("?format=car", "*/*"),
        ("?format=car&dag-scope=block", "*/*"),
        ("?format=car&dag-scope=entity", "*/*"),
        ("", "application/vnd.ipld.raw"),
        ("", "application/vnd.ipld.car; version=1; order=dfs; dups=y"),
        ("", "application/vnd.ipld.car; version=1; order=dfs; dups=n"),
        ("/same", "application/vnd.ipld.car; version=1; order=dfs; dups=y"),
        ("/same", "application/vnd.ipld.car; version=1; order=dfs; dups=n"),
        ("/wide?format=car&dag-scope=entity", "*/*"),
        ("/wide?format=car&dag-scope=block", "*/*"),
        ("/DEEP?format=car", "*/*"),
        ("/large?format=car&dag-scope=entity", "*/*"),
        ("/large?format=car&dag-scope=entity&entity-bytes=0:10", "*/*"),
        ("/large?format=car&dag-scope=entity&entity-bytes=262143:262144", "*/*"),
        ("/large?format=car&dag-scope=entity&entity-bytes=-1000:*", "*/*"),
        (
            "/large?format=car&dag-scope=entity&entity-bytes=1000000:-1000000",
            "*/*",
        ),
    ] {
        let path = format!("/ipfs/{cid}{}", path.replace("DEEP", &deep));
        let (status, headers, body) = get(format!("{}{path}", daemon.url), accept).await;
        let (our_status, our_headers, our_body) = get(served.url(&path), accept).await;
        let mut compare = |what: &str, ours: String, theirs: String| {
            if ours != theirs {
                differences.push(format!("{what} of {path} {accept}: {ours} and not {theirs}"));
            }
        };
        compare("status", our_status.to_string(), status.to_string());
        if status != 200 || our_status != 200 {
            continue;
        }
        let text = |headers: &http::HeaderMap, name: &str| {
            headers
                .get(name)
                .map_or("", |value| value.to_str().expect("text"))
                .to_owned()
        };
        for name in ["cache-control", "x-content-type-options"] {
            compare(name, text(&our_headers, name), text(&headers, name));
        }
        let kind = |headers| text(headers, "content-type").replace(' ', "");
        compare("content-type", kind(&our_headers), kind(&headers));
        // Kubo gives the name in UTF-8 too, where ASCII says it all, and puts the path into it, which is not specified.
        let theirs = text(&headers, "content-disposition");
        let theirs = theirs.split("; filename*").next().unwrap_or_default();
        let theirs = match theirs.split_once('_') {
            Some((before, _)) => format!("{before}.car\""),
            None => theirs.to_owned(),
        };
        compare("content-disposition", text(&our_headers, "content-disposition"), theirs);
        if path.contains("raw") || accept.contains("raw") {
            assert_eq!(our_body, body, "{path}");
            continue;
        }
        let ((our_roots, ours), (roots, theirs)) = (read_car(&our_body), read_car(&body));
        compare("roots", format!("{our_roots:?}"), format!("{roots:?}"));
        compare("number of blocks", ours.len().to_string(), theirs.len().to_string());
        if support::cids(&ours) != support::cids(&theirs) {
            differences.push(format!("blocks of {path} {accept}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
