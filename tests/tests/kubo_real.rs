//! The client against real Kubo daemons: what the fake imitates is checked here against the original.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster_ipfs::{Error, Held, IpfsNode, LookFor, PIN_NAME, Progress, Updated};
use cluster_kubo::{Credentials, KuboClient, KuboOptions, Silent};
use cluster_tests::kubo::{KUBO_VERSION, KuboDaemon, KuboOptions as DaemonOptions};
use node_core::{Cid, ErrorClass, PinMode};
use tempfile::TempDir;

fn client(address: &str, credentials: Option<&str>) -> KuboClient {
    client_with(address, credentials, KuboOptions::default())
}

fn client_with(address: &str, credentials: Option<&str>, options: KuboOptions) -> KuboClient {
    let credentials = credentials.map(|line| Credentials::parse(line).expect("credentials"));
    let address = address.parse().expect("address");
    KuboClient::new(&address, credentials, options, Arc::new(Silent)).expect("client")
}

fn ignore(_: Progress) {}

async fn look(node: &KuboClient, cid: &Cid) -> Result<Option<Held>, Error> {
    Ok(node.pin_ls(cid, LookFor::Any).await?.map(|pin| pin.held))
}

async fn daemon() -> (TempDir, KuboDaemon) {
    let folder = tempfile::tempdir().expect("folder");
    let daemon = KuboDaemon::start(folder.path()).await.expect("daemon");
    (folder, daemon)
}

/// Content that no other call has made.
fn content(bytes: usize) -> Vec<u8> {
    (0..bytes.div_ceil(16))
        .flat_map(|_| *uuid::Uuid::new_v4().as_bytes())
        .take(bytes)
        .collect()
}

fn of_codec(cid: &Cid, version_and_codec: &[u8]) -> Cid {
    let bytes = cid.to_bytes();
    Cid::from_bytes(&[version_and_codec, &bytes[2..]].concat()).expect("a CID")
}

#[tokio::test]
async fn one_daemon_answers_everything() {
    let (_folder, daemon) = daemon().await;
    let node = client(daemon.address(), None);

    let id = node.id().await.expect("id");
    assert_eq!(id.peer_id, daemon.peer_id());
    assert!(id.agent.starts_with("kubo/"), "{}", id.agent);
    assert!(
        id.addresses
            .iter()
            .all(|address| address.starts_with("/ip4/127.0.0.1/")),
        "{:?}",
        id.addresses
    );
    assert_eq!(node.version().await.expect("version"), KUBO_VERSION);
    let stat = node.repo_stat().await.expect("repo/stat");
    assert_eq!(stat.max_bytes, Some(10_000_000_000));
    assert!(stat.used_bytes > 0);

    let a = daemon.add(&content(1000)).await.expect("add");
    let b = daemon.add(&content(1000)).await.expect("add");
    let c = daemon.add(&content(1000)).await.expect("add");

    // Direct, then recursive, then direct again, which Kubo refuses.
    assert_eq!(look(&node, &a).await.expect("pin/ls"), None);
    let added = node.pin_add(&a, PinMode::Direct, "", &ignore).await.expect("direct");
    assert_eq!(added.held, PinMode::Direct);
    assert_eq!(look(&node, &a).await.expect("pin/ls"), Some(Held::Direct));
    let added = node
        .pin_add(&a, PinMode::Recursive, "", &ignore)
        .await
        .expect("recursive");
    assert_eq!(
        added,
        cluster_ipfs::Added {
            held: PinMode::Recursive,
            progress: Progress { blocks: 1, bytes: 1000 }
        }
    );
    assert_eq!(look(&node, &a).await.expect("pin/ls"), Some(Held::Recursive));
    assert_eq!(
        node.pin_add(&a, PinMode::Direct, "", &ignore).await.expect("held").held,
        PinMode::Recursive
    );

    // Update.
    assert_eq!(
        node.pin_update(&b, &c, &ignore).await.expect("pin/update"),
        Updated::SourceNotPinned
    );
    assert_eq!(
        node.pin_update(&a, &b, &ignore).await.expect("pin/update"),
        Updated::Done(Progress::default())
    );
    assert_eq!(
        node.pin_update(&a, &b, &ignore).await.expect("again"),
        Updated::Done(Progress::default())
    );
    assert_eq!(look(&node, &a).await.expect("the source stays"), Some(Held::Recursive));
    assert_eq!(look(&node, &b).await.expect("pin/ls"), Some(Held::Recursive));

    // Away with it, twice.
    for cid in [&a, &b] {
        assert!(node.pin_rm(cid).await.expect("pin/rm"));
        assert!(!node.pin_rm(cid).await.expect("not pinned is as good"));
        assert_eq!(look(&node, cid).await.expect("pin/ls"), None);
    }
    node.pin_add(&c, PinMode::Direct, "", &ignore).await.expect("direct");
    assert!(node.pin_rm(&c).await.expect("a direct pin goes too"));
}

/// What tells the cluster's pins from those made by hand when all else is lost.
#[tokio::test]
async fn names_of_pins_are_kept_and_shown() {
    let (_folder, mut daemon) = daemon().await;
    let node = client(daemon.address(), None);
    let name_of = async |node: &KuboClient, cid: &Cid, look_for| {
        let pin = node.pin_ls(cid, look_for).await.expect("pin/ls");
        pin.and_then(|pin| pin.name)
    };
    let mut cids = Vec::new();
    for _ in 0..4 {
        cids.push(daemon.add(&content(1000)).await.expect("add"));
    }
    let [recursive, direct, by_hand, updated] = cids[..] else {
        unreachable!("four")
    };
    node.pin_add(&recursive, PinMode::Recursive, PIN_NAME, &ignore)
        .await
        .expect("pin/add");
    node.pin_add(&direct, PinMode::Direct, PIN_NAME, &ignore)
        .await
        .expect("pin/add");
    node.pin_add(&by_hand, PinMode::Recursive, "", &ignore)
        .await
        .expect("pin/add");
    node.pin_update(&recursive, &updated, &ignore)
        .await
        .expect("pin/update");
    for look_for in [LookFor::Any, LookFor::Recursive] {
        assert_eq!(name_of(&node, &recursive, look_for).await.as_deref(), Some(PIN_NAME));
        assert_eq!(name_of(&node, &by_hand, look_for).await.as_deref(), Some(""));
    }
    assert_eq!(name_of(&node, &direct, LookFor::Any).await.as_deref(), Some(PIN_NAME));
    assert_eq!(name_of(&node, &direct, LookFor::Recursive).await, None);
    // An update hands the name of the old pin on, which the fake imitates.
    assert_eq!(name_of(&node, &updated, LookFor::Any).await.as_deref(), Some(PIN_NAME));
    // Pinning under the name what is pinned without gives it the name.
    node.pin_add(&by_hand, PinMode::Recursive, PIN_NAME, &ignore)
        .await
        .expect("pin/add");
    assert_eq!(name_of(&node, &by_hand, LookFor::Any).await.as_deref(), Some(PIN_NAME));
    daemon.restart().await.expect("restart");
    assert_eq!(
        name_of(&node, &recursive, LookFor::Any).await.as_deref(),
        Some(PIN_NAME)
    );
}

#[tokio::test]
async fn what_can_never_be_pinned_is_permanent() {
    let (_folder, daemon) = daemon().await;
    let node = client(daemon.address(), None);
    let raw = daemon.add(b"neither dag-pb nor dag-cbor\n").await.expect("add");
    assert_eq!(raw.codec(), 0x55);
    for (codec, words) in [
        (&[1, 0xb0, 0xba, 0x01][..], "no decoder registered"),
        (&[1, 0x70], "protobuf"),
    ] {
        let error = node
            .pin_add(&of_codec(&raw, codec), PinMode::Recursive, "", &ignore)
            .await
            .expect_err("refused");
        assert_eq!(error.class, ErrorClass::Permanent, "{error}");
        assert!(error.message.contains(words), "{error}");
    }
    let origin = format!("/ip4/127.0.0.1/tcp/1/p2p/{}", daemon.peer_id());
    let outcome = node.swarm_connect(&[origin, "/ip4/127.0.0.1/tcp/1".into()]).await;
    assert_eq!(outcome.connected, 0);
    assert!(
        outcome
            .failures
            .iter()
            .all(|error| error.class == ErrorClass::Permanent),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn content_travels_between_daemons_and_its_progress_is_seen() {
    let ((_a, source), (_b, target)) = tokio::join!(daemon(), daemon());
    // Enough blocks that some ticks of half a second pass; each is fetched over the wire.
    let bytes = content(24 * 1024 * 1024);
    let cid = source.add_in_chunks(&bytes, 8 * 1024).await.expect("add");
    let node = client(target.address(), None);

    let outcome = node.swarm_connect(&[source.swarm_address().to_owned()]).await;
    assert_eq!((outcome.connected, outcome.failures.len()), (1, 0), "{outcome:?}");

    let seen = Mutex::new(Vec::new());
    let sink = |progress| seen.lock().expect("lock").push(progress);
    let added = node
        .pin_add(&cid, PinMode::Recursive, "", &sink)
        .await
        .expect("pin/add");
    assert!(added.progress.blocks > 3 * 1024, "{added:?}");
    assert!(added.progress.bytes > bytes.len() as u64, "{added:?}");
    let seen = seen.into_inner().expect("lock");
    assert_eq!(seen.last(), Some(&added.progress));
    assert!(seen.windows(2).all(|two| two[1].is_beyond(two[0])), "{seen:?}");
    assert_eq!(
        target.pin_kind(&cid).await.expect("pin/ls").as_deref(),
        Some("recursive")
    );
    assert!(target.block_size(&cid).await.expect("block/stat").is_some());
    assert_eq!(
        target
            .pins()
            .await
            .expect("pin/ls")
            .iter()
            .filter(|pin| **pin == cid)
            .count(),
        1
    );
    assert_eq!(source.pin_kind(&cid).await.expect("pin/ls"), None);
}

#[tokio::test]
async fn content_that_nobody_has_stalls_and_a_frozen_daemon_is_unreachable() {
    let (_folder, daemon) = daemon().await;
    let lost = Cid::from_bytes(&[&[1, 0x55, 0x12, 32][..], &content(32)].concat()).expect("a CID");
    let stall = KuboOptions {
        stall_timeout: Duration::from_secs(2),
        ..KuboOptions::default()
    };
    let error = client_with(daemon.address(), None, stall)
        .pin_add(&lost, PinMode::Recursive, "", &ignore)
        .await
        .expect_err("nobody has it");
    assert_eq!(error.class, ErrorClass::Stalled, "{error}");

    let hung = KuboOptions {
        request_timeout: Duration::from_secs(2),
        ..KuboOptions::default()
    };
    let node = client_with(daemon.address(), None, hung);
    daemon.freeze().expect("freeze");
    assert_eq!(node.id().await.expect_err("frozen").class, ErrorClass::Unreachable);
    let error = node
        .pin_add(&lost, PinMode::Recursive, "", &ignore)
        .await
        .expect_err("frozen");
    assert_eq!(error.class, ErrorClass::Unreachable, "{error}");
    daemon.thaw().expect("thaw");
    node.id().await.expect("id");
}

#[tokio::test]
async fn a_killed_daemon_comes_back_at_its_address_with_its_pins() {
    let (_folder, mut daemon) = daemon().await;
    let node = client(daemon.address(), None);
    let cid = daemon.add(&content(100)).await.expect("add");
    node.pin_add(&cid, PinMode::Recursive, "", &ignore)
        .await
        .expect("pin/add");
    let (address, id) = (daemon.address().to_owned(), daemon.peer_id().to_owned());

    daemon.kill().expect("kill");
    assert_eq!(node.id().await.expect_err("killed").class, ErrorClass::Unreachable);
    daemon.restart().await.expect("restart");
    assert_eq!((daemon.address(), daemon.peer_id()), (address.as_str(), id.as_str()));
    assert_eq!(look(&node, &cid).await.expect("pin/ls"), Some(Held::Recursive));
    daemon.stop().await.expect("stop");
    assert_eq!(daemon.pid(), None);
    assert_eq!(node.id().await.expect_err("stopped").class, ErrorClass::Unreachable);
}

#[tokio::test]
async fn credentials_and_the_unix_socket() {
    let folder = tempfile::tempdir().expect("folder");
    let socket = folder.path().join("rpc.sock");
    let all = vec!["/api/v0".to_owned()];
    let options = DaemonOptions {
        authorizations: vec![
            ("bearer:t0ken".into(), all.clone()),
            ("basic:user:passw0rd".into(), all),
            ("bearer:narrow".into(), vec!["/api/v0/id".into()]),
        ],
        socket: Some(socket.clone()),
        storage_max: Some("1GB".into()),
        ..DaemonOptions::default()
    };
    let daemon = KuboDaemon::start_with(&folder.path().join("repo"), options)
        .await
        .expect("daemon");
    let unix = format!("unix://{}", socket.display());
    for address in [daemon.address(), &unix] {
        for credentials in ["bearer:t0ken", "basic:user:passw0rd"] {
            let stat = client(address, Some(credentials)).repo_stat().await.expect(credentials);
            assert_eq!(stat.max_bytes, Some(1_000_000_000));
        }
        for credentials in [
            None,
            Some("bearer:wrong"),
            Some("basic:user:wrong"),
            Some("bearer:narrow"),
        ] {
            let error = client(address, credentials).repo_stat().await.expect_err("refused");
            assert_eq!(
                (error.class, error.status),
                (ErrorClass::Unauthorized, Some(403)),
                "{error}"
            );
            assert!(error.message.contains("Access Denied"), "{error}");
        }
        client(address, Some("bearer:narrow")).id().await.expect("its one path");
    }
}
