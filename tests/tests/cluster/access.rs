//! Tokens and passwords: made at one peer, good at all, and over when they are revoked.

use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_proto::v1;
use cluster_tests::client::{Client, pin_request};
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::cid;
use cluster_tests::ctl::Ctl;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status};

use crate::{item, reason};

/// A call that shows this.
fn shown<T>(message: T, value: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value: MetadataValue<Ascii> = value.parse().expect("a header");
    request.metadata_mut().insert("authorization", value);
    request
}

fn bearer<T>(message: T, token: &str) -> Request<T> {
    shown(message, &format!("Bearer {token}"))
}

fn basic<T>(message: T, user: &str, password: &str) -> Request<T> {
    let plain = format!("{user}:{password}");
    shown(message, &format!("Basic {}", multibase::Base::Base64Pad.encode(plain)))
}

/// A command line that asks over the socket in a peer's folder.
fn owner(cluster: &Cluster, index: usize) -> anyhow::Result<Ctl> {
    let socket = cluster.peer(index).dir().join("admin.sock");
    Ctl::new(format!("unix:{}", socket.display()))
}

/// Three peers that ask for credentials.
async fn asking() -> anyhow::Result<Cluster> {
    let mut cluster = Cluster::three().await?;
    cluster.set("api.auth", "required");
    for index in 0..3 {
        cluster.configure(index)?;
        cluster.peer(index).restart().await?;
    }
    Ok(cluster)
}

async fn token(ctl: &Ctl, arguments: &[&str]) -> anyhow::Result<String> {
    let printed = ctl.run(&[&["token", "create"], arguments].concat()).await?;
    Ok(printed.trim().to_owned())
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.expect_err("it is refused");
    (status.code(), reason(&status))
}

fn pin(namespace: &str, number: u64) -> v1::PinRequest {
    v1::PinRequest {
        namespace: namespace.into(),
        ..pin_request(&cid(number))
    }
}

/// Waits until a token is good, or not, at a peer.
async fn becomes(cluster: &Cluster, client: &Client, token: &str, good: bool) -> anyhow::Result<()> {
    let what = format!("the token is {}", if good { "good" } else { "over" });
    cluster
        .wait_until(&what, LIMIT, async || {
            let asked = client
                .cluster
                .clone()
                .list_peers(bearer(v1::ListPeersRequest {}, token))
                .await;
            match asked {
                Ok(_) => ensure!(good, "it is let in"),
                Err(status) => {
                    ensure!(!good, "{status}");
                    ensure!(status.code() == Code::Unauthenticated, "{status}");
                }
            }
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_one_peer_is_good_at_all_until_it_is_revoked() -> anyhow::Result<()> {
    let cluster = asking().await?;
    let (one, other) = (0, 2);

    // Without a credential there is health, and the owner's own socket.
    let client = cluster.client(one);
    let nothing = client.cluster.clone().list_peers(v1::ListPeersRequest {}).await;
    assert_eq!(refused(nothing), (Code::Unauthenticated, "NO_CREDENTIAL".into()));
    tonic_health::pb::health_client::HealthClient::new(client.channel.clone())
        .check(tonic_health::pb::HealthCheckRequest::default())
        .await?;
    let ctl = owner(&cluster, one)?;
    let admin = token(&ctl, &["ops", "--scope", "admin"]).await?;
    becomes(&cluster, &client, &admin, true).await?;
    becomes(&cluster, &cluster.client(other), &admin, true).await?;

    // With a majority gone the last peer still knows who may read what it has.
    let reader = token(&ctl, &["reader", "--namespace", "team-a", "--scope", "read"]).await?;
    let watcher = cluster.client(other);
    becomes(&cluster, &watcher, &reader, true).await?;
    let mut watch = watcher
        .pins
        .clone()
        .watch(bearer(v1::WatchRequest::default(), &reader))
        .await?
        .into_inner();
    watch.message().await?.context("the first message")?;
    let listed = ctl.run(&["token", "ls"]).await?;
    ensure!(
        listed.contains("ops") && listed.contains("reader") && !listed.contains("pft_"),
        "{listed}"
    );
    cluster.peer(0).kill9()?;
    cluster.peer(1).kill9()?;
    let stale = v1::ListRequest {
        consistency: v1::Consistency::Stale.into(),
        ..v1::ListRequest::default()
    };
    watcher.pins.clone().list(bearer(stale, &reader)).await?;
    // Both at once: one alone is no majority, and is not ready before there is one.
    cluster.peer(0).launch()?;
    cluster.peer(1).launch()?;
    cluster.peer(0).ready().await?;
    cluster.peer(1).ready().await?;

    // Revoked at one peer, it is over at the other, and so is what was opened with it.
    let ran = owner(&cluster, one)?.try_run(&["token", "revoke", "reader"]).await?;
    assert_eq!(ran.code, 0, "{ran:?}");
    let at_once = cluster
        .client(one)
        .cluster
        .clone()
        .list_peers(bearer(v1::ListPeersRequest {}, &reader))
        .await;
    assert_eq!(refused(at_once), (Code::Unauthenticated, "WRONG_CREDENTIAL".into()));
    becomes(&cluster, &watcher, &reader, false).await?;
    let ended = tokio::time::timeout(LIMIT, async {
        loop {
            match watch.message().await {
                Ok(Some(_)) => {}
                Ok(None) => break anyhow::Ok(None),
                Err(status) => break Ok(Some(status)),
            }
        }
    });
    let status = ended.await??.context("it ends with an error")?;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    becomes(&cluster, &watcher, &admin, true).await?;

    // Nothing secret is in the logs; who was refused is.
    let secret = &reader[20..];
    for peer in cluster.peers() {
        let log = peer.log();
        ensure!(
            !log.contains(secret) && !log.contains("pft_"),
            "{} tells a token",
            peer.name()
        );
    }
    let log = cluster.peer(one).log();
    for words in [
        "a credential was created",
        "a credential was revoked",
        "a client was refused",
    ] {
        ensure!(log.contains(words), "{words} is not in the log");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_is_confined_to_its_namespace_and_scope() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let ctl = owner(&cluster, 0)?;
    let client = cluster.client(0);
    let mut pins = client.pins.clone();
    // What nobody asks for is refused all the same when it is shown and wrong.
    pins.pin(pin("team-b", 1)).await?;
    let wrong = pins.pin(bearer(pin("team-b", 1), "pft_wrong")).await;
    assert_eq!(refused(wrong), (Code::Unauthenticated, "WRONG_CREDENTIAL".into()));
    let unreadable = pins.pin(shown(pin("team-b", 1), "Digest x")).await;
    assert_eq!(
        refused(unreadable),
        (Code::Unauthenticated, "UNREADABLE_CREDENTIAL".into())
    );

    let writer = token(&ctl, &["writer", "--namespace", "team-a"]).await?;
    let made = pins.pin(bearer(pin("", 1), &writer)).await?.into_inner();
    assert_eq!(
        made.pin.context("the pin")?.namespace,
        "team-a",
        "its own when none is named"
    );
    pins.pin(bearer(pin("team-a", 2), &writer)).await?;
    let denied = (Code::PermissionDenied, "DENIED".to_owned());
    assert_eq!(refused(pins.pin(bearer(pin("team-b", 2), &writer)).await), denied);
    let unpin = v1::UnpinRequest {
        namespace: "team-b".into(),
        cid: cid(1).to_string(),
        ..v1::UnpinRequest::default()
    };
    assert_eq!(refused(pins.unpin(bearer(unpin, &writer)).await), denied);

    // Lists, statuses and bulk streams hold to it too.
    let listed = client.list(bearer(v1::ListRequest::default(), &writer)).await?;
    ensure!(
        listed.len() == 2 && listed.iter().all(|pin| pin.namespace == "team-a"),
        "{listed:?}"
    );
    let elsewhere = v1::ListRequest {
        filter: Some(v1::PinFilter {
            namespace: "team-b".into(),
            ..v1::PinFilter::default()
        }),
        ..v1::ListRequest::default()
    };
    assert_eq!(refused(pins.list(bearer(elsewhere, &writer)).await.map(drop)), denied);
    let status = |number: u64| v1::StatusRequest {
        cid: cid(number).to_string(),
        ..v1::StatusRequest::default()
    };
    let own = pins.status(bearer(status(1), &writer)).await?.into_inner();
    assert_eq!(own.pins, 1, "team-b's pin of it is not told");
    pins.pin(pin("team-b", 3)).await?;
    let others = pins.status(bearer(status(3), &writer)).await;
    assert_eq!(refused(others), (Code::NotFound, "NOT_FOUND".into()));
    let items = vec![
        item(&cid(4), 1),
        v1::BulkPinItem {
            namespace: "team-b".into(),
            ..item(&cid(5), 1)
        },
    ];
    let stream = tokio_stream::iter([v1::BulkPinRequest { items }]);
    let mut answers = pins.bulk_pin(bearer(stream, &writer)).await?.into_inner();
    let mut codes = Vec::new();
    while let Some(message) = answers.message().await? {
        codes.extend(message.results.iter().map(|result| result.code));
    }
    assert_eq!(codes, [0, Code::PermissionDenied as i32]);

    // Scopes.
    let reader = token(&ctl, &["reader", "--namespace", "team-a", "--scope", "read"]).await?;
    pins.status(bearer(status(1), &reader)).await?;
    assert_eq!(refused(pins.pin(bearer(pin("", 6), &reader)).await), denied);
    for token in [&reader, &writer] {
        let settings = client
            .cluster
            .clone()
            .update_settings(bearer(v1::UpdateSettingsRequest::default(), token))
            .await;
        assert_eq!(refused(settings), denied);
        assert_eq!(
            refused(pins.recover(bearer(v1::RecoverRequest::default(), token)).await),
            denied
        );
    }
    let admin = token(&ctl, &["ops", "--scope", "admin"]).await?;
    pins.pin(bearer(pin("team-b", 7), &admin)).await?;
    client
        .cluster
        .clone()
        .update_settings(bearer(v1::UpdateSettingsRequest::default(), &admin))
        .await?;
    let all = client.list(bearer(v1::ListRequest::default(), &admin)).await?;
    ensure!(all.iter().any(|pin| pin.namespace == "team-b"), "{all:?}");

    let (_, metrics) = cluster.peer(0).http_get("/metrics").await?;
    for reason in ["malformed", "namespace", "scope"] {
        let line = format!("pinfleet_access_refused_total{{reason=\"{reason}\"}}");
        ensure!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_expiry_and_the_command_line() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let owner = owner(&cluster, 0)?;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    std::fs::write(path("password"), "correct horse: battery\n")?;
    owner
        .run(&[
            "credential",
            "create",
            "alice@example.org",
            "--password-file",
            &path("password"),
        ])
        .await?;
    let client = cluster.client(0);
    let ask = async |user: &str, password: &str| {
        let asked = basic(v1::ListPeersRequest {}, user, password);
        client.cluster.clone().list_peers(asked).await
    };
    // Twice: the second time it is known.
    for _ in 0..2 {
        ask("alice@example.org", "correct horse: battery").await?;
        for (user, password) in [("alice@example.org", "wrong"), ("nobody", "correct horse: battery")] {
            assert_eq!(
                refused(ask(user, password).await),
                (Code::Unauthenticated, "WRONG_CREDENTIAL".into())
            );
        }
    }
    // The same name with another password.
    owner.run(&["credential", "revoke", "alice@example.org"]).await?;
    assert_eq!(
        refused(ask("alice@example.org", "correct horse: battery").await).0,
        Code::Unauthenticated
    );
    let generated = owner
        .run(&["credential", "create", "alice@example.org", "--generate"])
        .await?;
    assert_eq!(
        refused(ask("alice@example.org", "correct horse: battery").await).0,
        Code::Unauthenticated
    );
    ask("alice@example.org", generated.trim()).await?;

    // A token ends with its time, and the list says so.
    let brief = token(&owner, &["brief", "--expire-in", "2s"]).await?;
    becomes(&cluster, &client, &brief, false).await?;
    let listed = owner.json(&["token", "ls"]).await?;
    assert_eq!(listed[0]["expired"], true, "{listed:?}");

    // A name is taken until it is free, and what does not exist is told.
    let admin = token(&owner, &["ops", "--scope", "admin", "--namespace", "team-a"]).await?;
    let taken = owner.try_run(&["token", "create", "ops"]).await?;
    ensure!(
        taken.code == 4 && taken.stderr.contains("revoke that one first"),
        "{taken:?}"
    );
    let missing = owner.try_run(&["token", "revoke", "nobody"]).await?;
    assert_eq!(missing.code, 3, "{missing:?}");
    // Over TCP the command line shows its token.
    std::fs::write(path("token"), format!("{admin}\n"))?;
    let ctl = Ctl::new(cluster.peer(0).info().grpc)?;
    ctl.run(&["--token-file", &path("token"), "token", "create", "by-ops"])
        .await?;
    std::fs::write(path("token"), "pft_wrong\n")?;
    let refused = ctl.try_run(&["--token-file", &path("token"), "token", "ls"]).await?;
    ensure!(
        refused.code == 4 && refused.stderr.contains("the token is wrong"),
        "{refused:?}"
    );
    let log = cluster.peer(0).log();
    ensure!(
        log.contains("by-ops") && log.contains("by=\"ops\""),
        "who asked is in the log:\n{log}"
    );
    tokio::time::timeout(Duration::from_secs(30), cluster.peer(0).stop()).await??;
    ensure!(
        !cluster.peer(0).dir().join("admin.sock").exists(),
        "the socket goes with the peer"
    );
    Ok(())
}
