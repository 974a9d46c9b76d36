//! The client against a daemon that does all that a daemon should not.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cluster_ipfs::{Error, Held, IpfsNode, LookFor, Operation, PIN_NAME, Progress, Updated};
use cluster_kubo::{CallObserver, Credentials, KuboClient, KuboOptions, Silent};
use cluster_tests::fake_kubo::{Call, FakeKubo, FakeOptions, Fault, Listen, PinKind, Rule, Settings};
use multihash_codetable::{Code, MultihashDigest};
use node_core::{Cid, ErrorClass, PinMode};

const WAIT: Duration = Duration::from_secs(10);

fn cid(name: &str) -> Cid {
    let hash = Code::Sha2_256.digest(name.as_bytes());
    let mut bytes = vec![1, 0x55];
    bytes.extend_from_slice(&hash.to_bytes());
    Cid::from_bytes(&bytes).expect("a raw CID")
}

/// Short enough for a test, long enough for a busy machine.
fn options() -> KuboOptions {
    KuboOptions {
        request_timeout: Duration::from_millis(1500),
        stall_timeout: Duration::from_millis(600),
        update_timeout: Duration::from_millis(600),
        unpin_timeout: Duration::from_millis(600),
        ..KuboOptions::default()
    }
}

fn client(fake: &FakeKubo) -> KuboClient {
    client_with(fake, None, options(), Arc::new(Silent))
}

fn client_with(
    fake: &FakeKubo,
    credentials: Option<&str>,
    options: KuboOptions,
    observer: Arc<dyn CallObserver>,
) -> KuboClient {
    let address = fake.address().parse().expect("the fake's address");
    let credentials = credentials.map(|line| Credentials::parse(line).expect("credentials"));
    KuboClient::new(&address, credentials, options, observer).expect("a client")
}

fn ignore(_: Progress) {}

async fn look(node: &KuboClient, cid: &Cid) -> Result<Option<Held>, Error> {
    Ok(node.pin_ls(cid, LookFor::Any).await?.map(|pin| pin.held))
}

#[tokio::test]
async fn a_daemon_that_is_well_does_all_of_it() {
    let fake = FakeKubo::new().await.expect("fake");
    let node = client(&fake);
    let (a, b, c) = (cid("a"), cid("b"), cid("c"));

    let id = node.id().await.expect("id");
    assert_eq!(id.peer_id, fake.peer_id());
    assert_eq!(id.addresses.len(), 1);
    assert_eq!(node.version().await.expect("version"), "0.43.0");
    let before = node.repo_stat().await.expect("repo/stat");

    let seen = Mutex::new(Vec::new());
    let added = node
        .pin_add(&a, PinMode::Recursive, "", &|p| seen.lock().expect("lock").push(p))
        .await
        .expect("pin/add");
    assert_eq!(added.held, PinMode::Recursive);
    assert_eq!(seen.into_inner().expect("lock"), [added.progress]);
    assert_eq!(look(&node, &a).await.expect("pin/ls"), Some(Held::Recursive));
    let after = node.repo_stat().await.expect("repo/stat");
    assert!(after.used_bytes > before.used_bytes && after.free_bytes() < before.free_bytes());

    node.pin_add(&b, PinMode::Direct, "", &ignore).await.expect("pin/add");
    assert_eq!(look(&node, &b).await.expect("pin/ls"), Some(Held::Direct));
    let added = node
        .pin_add(&a, PinMode::Direct, "", &ignore)
        .await
        .expect("recursive includes direct");
    assert_eq!(added.held, PinMode::Recursive);

    assert_eq!(
        node.pin_update(&b, &c, &ignore).await.expect("pin/update"),
        Updated::SourceNotPinned
    );
    assert!(matches!(node.pin_update(&a, &c, &ignore).await, Ok(Updated::Done(_))));
    assert!(
        matches!(node.pin_update(&a, &c, &ignore).await, Ok(Updated::Done(_))),
        "again is as good"
    );
    assert_eq!(fake.pin(&a), Some(PinKind::Recursive), "the source stays");

    assert!(node.pin_rm(&c).await.expect("pin/rm"));
    assert!(!node.pin_rm(&c).await.expect("not pinned is as good"));
    assert_eq!(look(&node, &c).await.expect("pin/ls"), None);
    assert_eq!(
        fake.pins().into_keys().collect::<Vec<_>>(),
        std::collections::BTreeSet::from([a, b]).into_iter().collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_unix_socket_serves_too() {
    let folder = tempfile::tempdir().expect("folder");
    let listen = Listen::Unix(folder.path().join("api.sock"));
    let fake = FakeKubo::start(FakeOptions {
        listen,
        ..FakeOptions::default()
    })
    .await
    .expect("fake");
    let node = client(&fake);
    assert_eq!(node.id().await.expect("id").peer_id, fake.peer_id());
    fake.down().await;
    assert_eq!(node.id().await.expect_err("down").class, ErrorClass::Unreachable);
    fake.up().await.expect("up");
    node.id().await.expect("id");
}

#[tokio::test]
async fn each_answer_of_a_sick_daemon_has_its_class_and_keeps_its_words() {
    let fake = FakeKubo::new().await.expect("fake");
    let node = client(&fake);
    let error = |status: u16, message: &str| Fault::Error {
        status,
        message: message.into(),
    };
    let body = |status: u16, body: &str| Fault::Body {
        status,
        body: body.into(),
    };
    let table = [
        (error(500, "something new"), ErrorClass::Temporary, "something new"),
        (
            error(400, "argument refused"),
            ErrorClass::Permanent,
            "argument refused",
        ),
        (
            error(500, "pin: no decoder registered for multicodec code 1"),
            ErrorClass::Permanent,
            "no decoder",
        ),
        (
            body(500, "<html>oops</html>"),
            ErrorClass::Temporary,
            "<html>oops</html>",
        ),
        (body(502, "bad gateway"), ErrorClass::Unreachable, "bad gateway"),
        (
            body(404, "no such page"),
            ErrorClass::Unreachable,
            "not Kubo's RPC: no such page",
        ),
        (body(503, ""), ErrorClass::Overloaded, "503"),
        (body(429, "slow down"), ErrorClass::Overloaded, "slow down"),
        (body(200, "hello"), ErrorClass::Temporary, "not what Kubo sends"),
        (
            body(200, ""),
            ErrorClass::Temporary,
            "without saying whether it is pinned",
        ),
        (Fault::Malformed, ErrorClass::Temporary, "EOF while parsing an object"),
        (
            Fault::Truncated,
            ErrorClass::Temporary,
            "without saying whether it is pinned",
        ),
        (
            Fault::LateError {
                message: "context canceled".into(),
            },
            ErrorClass::Temporary,
            "context canceled",
        ),
        (
            Fault::LateError {
                message: "pin: no space left on device".into(),
            },
            ErrorClass::DiskFull,
            "no space",
        ),
        (
            Fault::ErrorLine {
                message: "pin: potentially insecure hash functions not allowed".into(),
            },
            ErrorClass::Permanent,
            "insecure",
        ),
        (
            Fault::Reset { after_blocks: 0 },
            ErrorClass::Unreachable,
            "does not answer",
        ),
        (
            Fault::Reset { after_blocks: 3 },
            ErrorClass::Temporary,
            "lost in the middle",
        ),
        (Fault::DiskFull, ErrorClass::DiskFull, "no space left on device"),
        (Fault::Unauthorized, ErrorClass::Unauthorized, "Access Denied"),
        (Fault::NotFound, ErrorClass::NotFound, "could not find"),
        (Fault::Hang, ErrorClass::Stalled, "no block came"),
        (
            Fault::Stall {
                after_blocks: 0,
                tick_millis: 50,
            },
            ErrorClass::Stalled,
            "no block came",
        ),
        (
            Fault::Stall {
                after_blocks: 4,
                tick_millis: 50,
            },
            ErrorClass::Stalled,
            "after 4 blocks and 1048576 bytes",
        ),
        (Fault::Mute { after_blocks: 2 }, ErrorClass::Stalled, "after 2 blocks"),
    ];
    for (at, (fault, class, words)) in table.into_iter().enumerate() {
        let cid = cid(&format!("pin {at}"));
        fake.fail_pin(&cid, fault.clone());
        let error = node
            .pin_add(&cid, PinMode::Recursive, "", &ignore)
            .await
            .expect_err("it fails");
        assert_eq!(
            (error.class, error.operation),
            (class, Operation::PinAdd),
            "{fault:?}: {error}"
        );
        assert!(error.message.contains(words), "{fault:?}: {error}");
        assert_eq!(fake.pin(&cid), None, "{fault:?}");
    }
    // None of it has broken the client.
    node.pin_add(&cid("well"), PinMode::Recursive, "", &ignore)
        .await
        .expect("it is well");
}

#[tokio::test]
async fn short_calls_report_the_same_faults() {
    let fake = FakeKubo::new().await.expect("fake");
    let node = client_with(
        &fake,
        None,
        KuboOptions {
            request_timeout: Duration::from_millis(400),
            ..options()
        },
        Arc::new(Silent),
    );
    for (fault, class) in [
        (Fault::Hang, ErrorClass::Unreachable),
        (Fault::Malformed, ErrorClass::Temporary),
        (Fault::Unauthorized, ErrorClass::Unauthorized),
        (Fault::Reset { after_blocks: 0 }, ErrorClass::Unreachable),
        (Fault::Mute { after_blocks: 1 }, ErrorClass::Unreachable),
        (
            Fault::LateError {
                message: "context canceled".into(),
            },
            ErrorClass::Temporary,
        ),
    ] {
        fake.add_rule(Rule::new(fault.clone()).of_call(Call::Id));
        assert_eq!(node.id().await.expect_err("it fails").class, class, "id, {fault:?}");
        fake.fail(fault.clone());
        assert_eq!(
            node.repo_stat().await.expect_err("it fails").class,
            class,
            "repo/stat, {fault:?}"
        );
        assert_eq!(
            look(&node, &cid("x")).await.expect_err("it fails").class,
            class,
            "pin/ls, {fault:?}"
        );
        fake.clear_rules();
    }
    fake.fail(Fault::Hang);
    assert_eq!(
        node.pin_rm(&cid("x")).await.expect_err("it hangs").class,
        ErrorClass::Stalled
    );
    assert_eq!(
        node.pin_update(&cid("x"), &cid("y"), &ignore)
            .await
            .expect_err("it hangs")
            .class,
        ErrorClass::Stalled
    );
}

#[tokio::test]
async fn a_hung_daemon_and_stalled_content_are_told_apart() {
    let fake = FakeKubo::new().await.expect("fake");
    let limits = KuboOptions {
        request_timeout: Duration::from_millis(400),
        stall_timeout: Duration::from_secs(2),
        ..options()
    };
    let node = client_with(&fake, None, limits, Arc::new(Silent));
    let class = async |fault: Fault| {
        fake.clear_rules();
        fake.fail(fault);
        node.pin_add(&cid("x"), PinMode::Recursive, "", &ignore)
            .await
            .expect_err("it fails")
            .class
    };
    assert_eq!(class(Fault::Hang).await, ErrorClass::Unreachable);
    assert_eq!(class(Fault::Mute { after_blocks: 1 }).await, ErrorClass::Unreachable);
    assert_eq!(
        class(Fault::Stall {
            after_blocks: 1,
            tick_millis: 100
        })
        .await,
        ErrorClass::Stalled
    );
}

#[tokio::test]
async fn what_grows_is_never_cut() {
    let fake = FakeKubo::new().await.expect("fake");
    let node = client(&fake);
    let cid = cid("slow");
    // Takes several times the stall timeout in all.
    let drip = Fault::Drip {
        blocks: 12,
        blocks_per_tick: 1,
        bytes_per_block: 1000,
        tick_millis: 200,
    };
    fake.fail_pin(&cid, drip);
    let seen = Mutex::new(Vec::new());
    let began = Instant::now();
    let added = node
        .pin_add(&cid, PinMode::Recursive, "", &|p| seen.lock().expect("lock").push(p))
        .await
        .expect("it comes");
    assert!(began.elapsed() > 3 * options().stall_timeout);
    assert_eq!(
        added.progress,
        Progress {
            blocks: 12,
            bytes: 12_000
        }
    );
    let seen = seen.into_inner().expect("lock");
    assert_eq!(seen.len(), 12);
    assert!(seen.windows(2).all(|two| two[1].is_beyond(two[0])));
    assert_eq!(fake.pin(&cid), Some(PinKind::Recursive));
}

#[tokio::test]
async fn dropping_a_call_cancels_it_at_the_daemon() {
    let fake = FakeKubo::new().await.expect("fake");
    let node = client(&fake);
    for fault in [
        Fault::Hang,
        Fault::Stall {
            after_blocks: 1,
            tick_millis: 50,
        },
    ] {
        fake.clear_rules();
        fake.fail(fault);
        let cid = cid("x");
        let call = node.pin_add(&cid, PinMode::Recursive, "", &ignore);
        let begun = fake.wait("take the call", WAIT, |fake| fake.in_flight(Call::PinAdd) == 1);
        tokio::select! {
            result = call => panic!("it ended: {result:?}"),
            begun = begun => begun.expect("begun"),
        }
        fake.wait("see the caller go", WAIT, |fake| fake.in_flight(Call::PinAdd) == 0)
            .await
            .expect("cancelled");
    }
}

#[tokio::test]
async fn a_daemon_that_is_away_is_unreachable_and_comes_back() {
    let fake = FakeKubo::new().await.expect("fake");
    let node = client(&fake);
    node.pin_add(&cid("a"), PinMode::Recursive, "", &ignore)
        .await
        .expect("up");
    fake.down().await;
    for _ in 0..2 {
        let error = node
            .pin_add(&cid("b"), PinMode::Recursive, "", &ignore)
            .await
            .expect_err("down");
        assert_eq!(error.class, ErrorClass::Unreachable, "{error}");
        assert!(error.message.contains(fake.address()), "{error}");
    }
    fake.up().await.expect("up");
    node.pin_add(&cid("b"), PinMode::Recursive, "", &ignore)
        .await
        .expect("up again");
    assert_eq!(fake.pins().len(), 2);
}

#[tokio::test]
async fn credentials_open_the_daemon_and_stay_out_of_errors() {
    for (header, right, wrong) in [
        ("Bearer s3cret", "bearer:s3cret", "bearer:wr0ng"),
        ("Basic dXNlcjpzM2NyZXQ=", "basic:user:s3cret", "basic:user:wr0ng"),
    ] {
        let settings = Settings {
            authorization: Some(header.into()),
            ..Settings::default()
        };
        let fake = FakeKubo::start(FakeOptions {
            settings,
            ..FakeOptions::default()
        })
        .await
        .expect("fake");
        let open = |credentials| client_with(&fake, credentials, options(), Arc::new(Silent));
        open(Some(right)).id().await.expect("the right ones");
        for bad in [None, Some(wrong)] {
            let error = open(bad).id().await.expect_err("the wrong ones");
            assert_eq!((error.class, error.status), (ErrorClass::Unauthorized, Some(403)));
            let text = format!("{error} {error:?}");
            assert!(!text.contains("wr0ng") && !text.contains("s3cret"), "{text}");
        }
    }
}

#[tokio::test]
async fn endless_answers_are_cut_in_bounded_memory() {
    let fake = FakeKubo::new().await.expect("fake");
    let node = client_with(
        &fake,
        None,
        KuboOptions {
            request_timeout: WAIT,
            stall_timeout: WAIT,
            ..options()
        },
        Arc::new(Silent),
    );
    fake.fail(Fault::Body {
        status: 200,
        body: "x".repeat(6 * 1024 * 1024),
    });
    for error in [
        node.pin_add(&cid("x"), PinMode::Recursive, "", &ignore)
            .await
            .map(drop)
            .expect_err("a line without end"),
        node.repo_stat().await.map(drop).expect_err("an answer without end"),
    ] {
        assert_eq!(error.class, ErrorClass::Temporary);
        assert!(error.message.contains("longer than"), "{error}");
    }
    fake.fail(Fault::Body {
        status: 500,
        body: "y".repeat(6 * 1024 * 1024),
    });
    let error = node.repo_stat().await.expect_err("words without end");
    assert_eq!(error.message.len(), 4096);
}

#[tokio::test]
async fn origins_are_tried_one_by_one() {
    let fake = FakeKubo::new().await.expect("fake");
    let node = client(&fake);
    let origins: Vec<String> = (0..20)
        .map(|n| format!("/ip4/192.0.2.{n}/tcp/4001/p2p/{}", fake.peer_id()))
        .collect();
    let rule = Rule::new(Fault::Error {
        status: 500,
        message: "connect failure: failed to dial".into(),
    });
    fake.add_rule(rule.of_call(Call::SwarmConnect).times(3));
    let outcome = node.swarm_connect(&origins).await;
    assert_eq!((outcome.connected, outcome.failures.len()), (17, 3));
    assert!(
        outcome
            .failures
            .iter()
            .all(|error| error.message.starts_with("/ip4/192.0.2.")),
        "{outcome:?}"
    );
    assert!(fake.in_flight_max(Call::SwarmConnect) <= 8);
    assert!(fake.origins().iter().all(|origin| origins.contains(origin)));
}

#[tokio::test]
async fn every_call_is_observed_once() {
    let fake = FakeKubo::new().await.expect("fake");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let observer = {
        let seen = seen.clone();
        move |operation: Operation, outcome: Result<(), ErrorClass>, _: Duration| {
            seen.lock().expect("lock").push((operation, outcome));
        }
    };
    let node = client_with(&fake, None, options(), Arc::new(observer));
    node.id().await.expect("id");
    fake.fail_pin(&cid("x"), Fault::DiskFull);
    node.pin_add(&cid("x"), PinMode::Recursive, "", &ignore)
        .await
        .expect_err("full");
    look(&node, &cid("x")).await.expect("two requests, one call");
    let expected = [
        (Operation::Id, Ok(())),
        (Operation::PinAdd, Err(ErrorClass::DiskFull)),
        (Operation::PinLs, Ok(())),
    ];
    assert_eq!(*seen.lock().expect("lock"), expected);
}

#[tokio::test]
async fn pins_bear_the_name_that_they_were_given() {
    let fake = FakeKubo::new().await.expect("fake");
    let node = client(&fake);
    let (ours, direct, theirs) = (cid("ours"), cid("direct"), cid("theirs"));
    node.pin_add(&ours, PinMode::Recursive, PIN_NAME, &ignore)
        .await
        .expect("pin/add");
    node.pin_add(&direct, PinMode::Direct, "", &ignore)
        .await
        .expect("pin/add");
    fake.pin_by_hand_as(&theirs, PinKind::Recursive, "a \"name\"");
    assert_eq!(fake.pin_name(&ours).as_deref(), Some(PIN_NAME));
    let listed = async |cid: &Cid, look_for| node.pin_ls(cid, look_for).await.expect("pin/ls");
    let pin = listed(&ours, LookFor::Recursive).await.expect("pinned");
    assert!(pin.name.as_deref() == Some(PIN_NAME) && pin.held == Held::Recursive);
    let pin = listed(&direct, LookFor::Any).await.expect("pinned");
    assert!(pin.held == Held::Direct && pin.name.as_deref() == Some(""));
    assert_eq!(listed(&direct, LookFor::Recursive).await, None);
    let pin = listed(&theirs, LookFor::Any).await.expect("pinned");
    assert_eq!(pin.name.as_deref(), Some("a \"name\""));
}
