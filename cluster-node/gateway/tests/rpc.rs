//! The RPC, driven by Pinfleet's own driver for Kubo: one Pinfleet node attached to another.

#[path = "support/node.rs"]
mod node;
mod support;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cluster_content::{AddOptions, Content, WalkOptions};
use cluster_dag::unixfs::Chunker;
use cluster_gateway::{RpcCredential, RpcNode, RpcOptions, limits, rpc};
use cluster_ipfs::{Held, IpfsNode, LookFor, Progress, Updated};
use cluster_kubo::{Credentials, KuboClient, KuboOptions, Silent};
use futures::TryStreamExt as _;
use node_core::{Cid, ErrorClass, PinMode};
use reqwest::multipart::{Form, Part};
use serde_json::Value;

use node::Node;
use support::{Served, Store, noise};

struct Rig {
    store: Arc<Store>,
    node: Arc<Node>,
    served: Served,
    client: KuboClient,
    http: reqwest::Client,
}

impl Rig {
    async fn new() -> Self {
        Self::with(RpcOptions::default(), None).await
    }

    async fn with(options: RpcOptions, credentials: Option<Credentials>) -> Self {
        let store = Store::new();
        let node = Node::new(store.clone());
        let parts = RpcNode {
            node: node.clone(),
            source: {
                let store = store.clone();
                Arc::new(move || store.clone() as _)
            },
            sink: {
                let store = store.clone();
                Arc::new(move || store.clone() as _)
            },
            held: None,
            inside: None,
        };
        let served = Served::new(rpc::router(parts, options), limits()).await;
        let address = served.url("").parse().expect("an address");
        let options = KuboOptions {
            stall_timeout: Duration::from_secs(5),
            ..KuboOptions::default()
        };
        let client = KuboClient::new(&address, credentials, options, Arc::new(Silent)).expect("a client");
        let http = support::client();
        Self {
            store,
            node,
            served,
            client,
            http,
        }
    }

    async fn file(&self, seed: u64) -> Cid {
        let mut options = AddOptions::v1_2025();
        options.unixfs.chunker = Chunker::Size(100);
        self.store.add(options, &[("file", &noise(1000, seed))]).await
    }

    async fn call(&self, path: &str) -> (u16, Vec<u8>) {
        let answer = self.http.post(self.served.url(path)).send().await.expect("answered");
        (answer.status().as_u16(), answer.bytes().await.expect("whole").to_vec())
    }
}

#[tokio::test]
async fn the_driver_sees_a_node_like_any_other() {
    let rig = Rig::new().await;
    let identity = rig.client.id().await.expect("answered");
    assert_eq!(identity, rig.node.id().await.expect("itself"));
    assert_eq!(rig.client.version().await.as_deref(), Ok("1.2.3"));
    let stat = rig.client.repo_stat().await.expect("answered");
    assert_eq!((stat.used_bytes, stat.max_bytes), (77, None));

    let origins = [
        "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWOther".to_owned(),
        "/ip4/127.0.0.1/tcp/1".to_owned(),
    ];
    let connected = rig.client.swarm_connect(&origins).await;
    assert_eq!((connected.connected, connected.failures.len()), (1, 1));
    assert_eq!(connected.failures[0].class, ErrorClass::Permanent);
    assert!(
        connected.failures[0].message.contains(&origins[1]),
        "{}",
        connected.failures[0]
    );
}

#[tokio::test]
async fn pins_are_added_seen_updated_and_removed() {
    let rig = Rig::new().await;
    let (first, second) = (rig.file(1).await, rig.file(2).await);
    assert_eq!(rig.client.pin_ls(&first, LookFor::Any).await, Ok(None));
    let last = Mutex::new(Progress::default());
    let sink = |progress: Progress| *last.lock().expect("no panic") = progress;
    let added = rig
        .client
        .pin_add(&first, PinMode::Recursive, "a name", &sink)
        .await
        .expect("pinned");
    assert_eq!((added.held, added.progress.blocks), (PinMode::Recursive, 11));
    assert_eq!(*last.lock().expect("no panic"), added.progress);
    assert!(added.progress.bytes > 1000);
    let listed = rig
        .client
        .pin_ls(&first, LookFor::Any)
        .await
        .expect("answered")
        .expect("pinned");
    assert_eq!((listed.held, listed.name.as_deref()), (Held::Recursive, Some("a name")));

    // Direct is what it is already.
    let again = rig
        .client
        .pin_add(&first, PinMode::Direct, "", &|_| ())
        .await
        .expect("held");
    assert_eq!(again.held, PinMode::Recursive);

    assert_eq!(
        rig.client.pin_update(&second, &first, &|_| ()).await,
        Ok(Updated::SourceNotPinned)
    );
    let updated = rig.client.pin_update(&first, &second, &|_| ()).await;
    assert!(matches!(updated, Ok(Updated::Done(_))), "{updated:?}");
    for cid in [first, second] {
        let held = rig.client.pin_ls(&cid, LookFor::Recursive).await.expect("answered");
        assert_eq!(
            held.map(|listed| listed.held),
            Some(Held::Recursive),
            "the old one is held still"
        );
        assert_eq!(rig.client.pin_rm(&cid).await, Ok(true));
        assert_eq!(rig.client.pin_rm(&cid).await, Ok(false));
    }
    let direct = rig
        .client
        .pin_add(&second, PinMode::Direct, "", &|_| ())
        .await
        .expect("pinned");
    assert_eq!((direct.held, direct.progress.blocks), (PinMode::Direct, 1));
    let held = |look_for| rig.client.pin_ls(&second, look_for);
    assert_eq!(
        held(LookFor::Any).await.expect("answered").map(|listed| listed.held),
        Some(Held::Direct)
    );
    assert_eq!(held(LookFor::Recursive).await, Ok(None));
    // Kubo's own default takes the old pin away.
    rig.client
        .pin_add(&second, PinMode::Recursive, "", &|_| ())
        .await
        .expect("pinned");
    let (status, _) = rig.call(&format!("/api/v0/pin/update?arg={second}&arg={first}")).await;
    assert_eq!(status, 200);
    assert_eq!(held(LookFor::Any).await, Ok(None));
}

#[tokio::test]
async fn errors_keep_their_class_on_the_way() {
    let rig = Rig::new().await;
    let cid = rig.file(1).await;
    for (class, words) in [
        (ErrorClass::NotFound, "nobody has it"),
        (ErrorClass::Permanent, "the codec is not known"),
        (ErrorClass::DiskFull, "above the watermark"),
        (ErrorClass::Overloaded, "too much"),
        (ErrorClass::Unauthorized, "not for you"),
        (ErrorClass::Temporary, "later"),
    ] {
        // At once, with a status.
        rig.node.fail(class, words);
        let error = rig
            .client
            .pin_add(&cid, PinMode::Recursive, "", &|_| ())
            .await
            .expect_err("failing");
        assert_eq!(error.class, class, "{error}");
        assert!(error.message.contains(words), "{error}");
        let error = rig.client.pin_rm(&cid).await.expect_err("failing");
        assert_eq!(error.class, class, "{error}");
        *rig.node.failing.lock().expect("no panic") = None;

        // In the middle of an answer, behind lines of progress.
        rig.node.budget.forget_permits(usize::MAX);
        rig.node.budget.add_permits(3);
        let progress = Mutex::new(Progress::default());
        let sink = |now: Progress| {
            *progress.lock().expect("no panic") = now;
            rig.node.fail(class, words);
            rig.node.budget.add_permits(1);
        };
        let error = rig
            .client
            .pin_add(&cid, PinMode::Recursive, "", &sink)
            .await
            .expect_err("failing");
        assert_eq!(progress.lock().expect("no panic").blocks, 3, "{class:?}");
        assert_eq!(error.class, class, "{error}");
        assert!(error.message.contains(words), "{error}");
        *rig.node.failing.lock().expect("no panic") = None;
        rig.node.budget.add_permits(1000);
    }
    let missing = rig.file(2).await;
    let blocks = Content::new(rig.store.clone()).walk(vec![missing], WalkOptions::default());
    let blocks: Vec<_> = blocks.try_collect().await.expect("whole");
    rig.store.remove(&blocks[5].cid());
    let error = rig
        .client
        .pin_add(&missing, PinMode::Recursive, "", &|_| ())
        .await
        .expect_err("a hole");
    assert_eq!(error.class, ErrorClass::NotFound, "{error}");
}

#[tokio::test]
async fn a_driver_that_goes_away_cancels_its_pin() {
    let rig = Rig::new().await;
    let cid = rig.file(1).await;
    for until in [0, 4] {
        rig.node.budget.forget_permits(usize::MAX);
        rig.node.budget.add_permits(until);
        let call = rig.client.pin_add(&cid, PinMode::Recursive, "", &|_| ());
        let begun = async {
            while rig.node.adding.load(Ordering::SeqCst) == 0 || rig.node.budget.available_permits() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            result = call => panic!("it waits for its budget: {result:?}"),
            () = begun => {}
        }
        while rig.node.adding.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(rig.node.pins.lock().expect("no panic").is_empty());
    }
}

#[tokio::test]
async fn content_goes_in_and_out() {
    let rig = Rig::new().await;
    let elsewhere = Store::new();
    let whole = noise(300_000, 7);
    let mut options = AddOptions::v1_2025();
    options.unixfs.chunker = Chunker::Size(1000);
    let root = elsewhere.add(options, &[("d/file", &whole), ("d/other", b"x")]).await;
    let car: Vec<_> = Content::new(elsewhere.clone())
        .car(vec![root], WalkOptions::default())
        .try_collect()
        .await
        .expect("whole");
    let car = car.concat();
    let send = |bytes: Vec<u8>, query: &str| {
        let form = Form::new().part("path", Part::bytes(bytes).file_name("x.car"));
        rig.http
            .post(rig.served.url(&format!("/api/v0/dag/import{query}")))
            .multipart(form)
            .send()
    };
    let answer = send(car.clone(), "?stats=true").await.expect("answered");
    assert_eq!(answer.status(), 200);
    let text = answer.text().await.expect("whole");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines[0]["Root"]["Cid"]["/"], root.to_string());
    assert_eq!(lines[0]["Root"]["PinErrorMsg"], "");
    assert_eq!(
        lines[1]["Stats"]["BlockCount"],
        elsewhere.blocks.lock().expect("no panic").len()
    );
    assert_eq!(
        *rig.store.blocks.lock().expect("no panic"),
        *elsewhere.blocks.lock().expect("no panic")
    );
    let held = rig.client.pin_ls(&root, LookFor::Recursive).await.expect("answered");
    assert!(held.is_some(), "its root is pinned");

    for (query, expected) in [
        ("", &whole[..]),
        ("&offset=1500", &whole[1500..]),
        ("&offset=5&length=7", &whole[5..12]),
    ] {
        let (status, got) = rig.call(&format!("/api/v0/cat?arg=/ipfs/{root}/file{query}")).await;
        assert_eq!(status, 200);
        assert!(got == expected, "{query}");
    }
    let (status, got) = rig.call(&format!("/api/v0/block/get?arg={root}")).await;
    assert_eq!(
        (status, &got[..]),
        (200, &elsewhere.block(&root).expect("added").bytes()[..])
    );

    let mut cut = car;
    cut.pop();
    let answer = send(cut, "").await.expect("answered");
    assert_eq!(answer.status(), 500);
    let said: Value = serde_json::from_str(&answer.text().await.expect("whole")).expect("JSON");
    assert!(
        said["Message"]
            .as_str()
            .is_some_and(|words| words.contains("broken at byte")),
        "{said}"
    );
    assert_eq!((said["Code"].as_u64(), said["Type"].as_str()), (Some(1), Some("error")));
}

#[tokio::test]
async fn calls_that_make_no_sense_are_told_so() {
    let rig = Rig::new().await;
    let cid = rig.file(1).await;
    for (path, status, part) in [
        ("pin/add".to_owned(), 400, "required"),
        ("pin/add?arg=nonsense".into(), 400, "nonsense"),
        (format!("pin/add?arg={cid}&recursive=perhaps"), 400, "perhaps"),
        ("pin/ls".into(), 400, "lists no pins"),
        (format!("pin/ls?arg={cid}&type=odd"), 400, "recursive"),
        (format!("pin/ls?arg={cid}"), 500, "is not pinned"),
        (format!("pin/update?arg={cid}"), 400, "two arguments"),
        ("swarm/connect".into(), 400, "required"),
        ("block/get".into(), 400, "required"),
        (format!("cat?arg={cid}&offset=x"), 400, "offset"),
        (format!("cat?arg={cid}&offset=1001"), 500, "1000"),
        (format!("cat?arg={cid}/below"), 500, "below"),
        ("cat?arg=/ipns/example.org".into(), 500, "names"),
        (
            format!("get?arg={cid}&compress=true&compression-level=10"),
            400,
            "between 1 and 9",
        ),
        (format!("refs?arg={cid}&edges=true&format=x"), 400, "not allowed"),
        (format!("refs?arg={cid}&recursive=true&max-depth=x"), 400, "max-depth"),
        (format!("dag/get?arg={cid}&output-codec=git-raw"), 400, "git-raw"),
        (format!("dag/get?arg={cid}/below"), 500, "below"),
        ("dag/put".into(), 400, "multipart"),
        ("block/put?cid-codec=x".into(), 400, "not known"),
        ("block/put?mhlen=20".into(), 400, "mhlen"),
        ("block/put?format=v0&mhtype=sha2-512".into(), 400, "CIDv0"),
        (format!("block/rm?arg={cid}"), 500, "garbage collection"),
        ("files/ls".into(), 500, "MFS"),
        ("add".into(), 500, "cluster"),
        ("stats/bw".into(), 500, "does not tell"),
        ("repo/gc".into(), 500, "does not tell"),
    ] {
        let (got, body) = rig.call(&format!("/api/v0/{path}")).await;
        let said: Value =
            serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{path}: {}", String::from_utf8_lossy(&body)));
        assert_eq!(got, status, "{path}: {said}");
        assert!(
            said["Message"].as_str().is_some_and(|words| words.contains(part)),
            "{path}: {said}"
        );
        assert_eq!(said["Type"], "error");
    }
    let (status, _) = rig.call("/api/v0/shutdown").await;
    assert_eq!(status, 404);
    let get = rig
        .http
        .get(rig.served.url("/api/v0/id"))
        .send()
        .await
        .expect("answered");
    assert_eq!(get.status(), 405);
    let page = rig
        .http
        .post(rig.served.url("/api/v0/id"))
        .header("origin", "http://example.org");
    assert_eq!(page.send().await.expect("answered").status(), 403);
}

#[tokio::test]
async fn only_who_shows_credentials_may_call() {
    for (wanted, shown) in [
        (RpcCredential::Bearer("s3cret".into()), "bearer:s3cret"),
        (
            RpcCredential::Basic {
                user: "me".into(),
                password: "pass:word".into(),
            },
            "basic:me:pass:word",
        ),
    ] {
        let options = || RpcOptions {
            credentials: vec![RpcCredential::Bearer("another".into()), wanted.clone()],
            ..RpcOptions::default()
        };
        let right = Credentials::parse(shown).expect("credentials");
        let rig = Rig::with(options(), Some(right)).await;
        rig.client.id().await.expect("let in");
        let (status, _) = rig.call("/api/v0/id").await;
        assert_eq!(status, 403);
        let wrong = Credentials::parse(&format!("{shown}x")).expect("credentials");
        let rig = Rig::with(options(), Some(wrong)).await;
        let error = rig.client.id().await.expect_err("kept out");
        assert_eq!(error.class, ErrorClass::Unauthorized, "{error}");
        assert!(!error.message.contains("s3cret"), "{error}");
    }
}

#[tokio::test]
async fn calls_beyond_the_bound_are_turned_away() {
    let options = RpcOptions {
        calls_max: 1,
        ..RpcOptions::default()
    };
    let rig = Rig::with(options, None).await;
    let cid = rig.file(1).await;
    rig.node.budget.forget_permits(usize::MAX);
    let blocked = rig.client.pin_add(&cid, PinMode::Recursive, "", &|_| ());
    let refused = async {
        while rig.node.adding.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let error = rig.client.id().await.expect_err("no place");
        assert_eq!(error.class, ErrorClass::Overloaded, "{error}");
        rig.node.budget.add_permits(1000);
    };
    let (added, ()) = tokio::join!(blocked, refused);
    added.expect("pinned");
    rig.client.id().await.expect("there is a place again");
}
