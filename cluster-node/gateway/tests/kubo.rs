//! The gateway of a real Kubo, asked for the same.

#[path = "../../dag/tests/support/mod.rs"]
mod kubo;
mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use cluster_content::import_car;
use cluster_gateway::{GatewayOptions, ServeOptions, gateway};

use kubo::Kubo;
use support::{Served, Store, client, noise, read_car};

/// A daemon whose gateway listens on a free port of loopback, without a network.
struct Daemon {
    child: Child,
    url: String,
}

impl Daemon {
    fn start(kubo: &Kubo) -> Self {
        for (key, value) in [
            ("Addresses.Gateway", "\"/ip4/127.0.0.1/tcp/0\""),
            ("Addresses.API", "\"/ip4/127.0.0.1/tcp/0\""),
            ("Addresses.Swarm", "[]"),
            ("Gateway.NoFetch", "true"),
            ("AutoTLS.Enabled", "false"),
            ("AutoConf.Enabled", "false"),
            ("Routing.Type", "\"none\""),
        ] {
            kubo.run(&["config", "--json", key, value]);
        }
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
    std::fs::create_dir_all(root.join("wide")).expect("made");
    std::fs::write(root.join("large"), noise(3_000_000, 1)).expect("written");
    std::fs::write(root.join("same"), vec![7; 2_000_000]).expect("written");
    for number in 0..1300 {
        std::fs::write(root.join(format!("wide/{number:0200}")), number.to_string()).expect("written");
    }
    let cid = kubo.path_cid(&[], &root);
    let store = Store::new();
    let exported = futures::stream::iter([Ok::<_, String>(Bytes::from(kubo.export(&cid)))]);
    import_car(exported, store.clone()).await.expect("good");
    let daemon = Daemon::start(&kubo);
    let router = gateway::router(store.clone() as Arc<_>, GatewayOptions::default());
    let served = Served::new(router, ServeOptions::default()).await;
    let http = client();
    let get = |base: String, accept: &'static str| {
        let request = http.get(base).header("accept", accept);
        async move {
            let answer = request.send().await.expect("answered");
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            (status, headers, answer.bytes().await.expect("whole"))
        }
    };
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
        ("/large?format=car&entity-bytes=0:10", "*/*"),
        ("/large?format=car&dag-scope=entity&entity-bytes=0:10", "*/*"),
        ("/large?format=car&dag-scope=entity&entity-bytes=262143:262144", "*/*"),
        ("/large?format=car&dag-scope=entity&entity-bytes=-1000:*", "*/*"),
        (
            "/large?format=car&dag-scope=entity&entity-bytes=1000000:-1000000",
            "*/*",
        ),
        ("/nothing?format=car", "*/*"),
    ] {
        let path = format!("/ipfs/{cid}{}", path.replace("DEEP", &deep));
        let (status, headers, body) = get(format!("{}{path}", daemon.url), accept).await;
        let (our_status, our_headers, our_body) = get(served.url(&path), accept).await;
        assert_eq!(our_status, status, "{path} {accept}");
        if status != 200 {
            continue;
        }
        for name in ["cache-control", "content-disposition", "x-content-type-options"] {
            assert_eq!(our_headers.get(name), headers.get(name), "{name} of {path} {accept}");
        }
        let kind = |headers: &http::HeaderMap| headers["content-type"].to_str().expect("text").replace(' ', "");
        assert_eq!(kind(&our_headers), kind(&headers), "{path} {accept}");
        if path.contains("raw") || accept.contains("raw") {
            assert_eq!(our_body, body, "{path}");
            continue;
        }
        let ((our_roots, ours), (roots, theirs)) = (read_car(&our_body), read_car(&body));
        assert_eq!(our_roots, roots, "{path} {accept}");
        let (ours, theirs) = (support::cids(&ours), support::cids(&theirs));
        assert_eq!(ours, theirs, "{path} {accept}");
    }
}
