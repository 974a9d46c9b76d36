//! Pinning, unpinning, updating, and what each answer promises.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_proto::v1;
use cluster_tests::client::{pin_replicas, pin_request, replicas_of};
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::{cid, cid_of, cid_v0, fresh_cid};
use cluster_tests::fake_kubo::{FakeKubo, PinKind};
use tonic::Code;

use crate::reason;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_is_held_until_it_is_removed_whichever_peer_is_asked() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    for asked in 0..3 {
        let cid = fresh_cid();
        let answer = cluster.client(asked).pin_as(pin_replicas(&cid, 2)).await?;
        assert_eq!(answer.outcome(), v1::PinOutcome::Created);
        let pin = answer.pin.context("the pin is in the answer")?;
        assert_eq!(
            (pin.cid, pin.namespace.as_str(), pin.nodes.len()),
            (cid.to_string(), "default", 2)
        );
        let other = cluster.client((asked + 1) % 3);
        cluster
            .wait_until("it is pinned", LIMIT, async || other.pinned_on(&cid, 2).await)
            .await?;
        for (name, _) in cluster.nodes() {
            let held = cluster.fake_named(name).pin(&cid);
            assert_eq!(held, pin.nodes.contains(name).then_some(PinKind::Recursive), "{name}");
        }
        cluster.client((asked + 2) % 3).unpin(&cid).await?;
        for name in &pin.nodes {
            let fake = cluster.fake_named(name);
            fake.wait("let go of it", LIMIT, |fake| fake.pin(&cid).is_none())
                .await?;
        }
        let gone = other.unpin(&cid).await.expect_err("it is not pinned any more");
        assert_eq!((gone.code(), reason(&gone).as_str()), (Code::NotFound, "NOT_FOUND"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_request_ids_and_modes() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let client = cluster.client(0);

    // Every kind of CID, as it was written.
    for cid in [
        cid_v0(1),
        cid_of(0x70, b"dag-pb"),
        cid_of(0x71, b"dag-cbor"),
        cid_of(0x55, b"raw"),
    ] {
        let pin = client.pin(&cid).await?.pin.context("a pin")?;
        assert_eq!(pin.cid, cid.to_string());
        assert_eq!(
            client.get(&cid, v1::Consistency::Unspecified).await?.cid,
            cid.to_string()
        );
    }

    // Created, unchanged, updated.
    let cid = fresh_cid();
    let mut request = pin_request(&cid);
    assert_eq!(client.pin_as(request.clone()).await?.outcome(), v1::PinOutcome::Created);
    assert_eq!(
        client.pin_as(request.clone()).await?.outcome(),
        v1::PinOutcome::Unchanged
    );
    request.options = Some(v1::PinOptions {
        name: "new".into(),
        ..v1::PinOptions::default()
    });
    assert_eq!(client.pin_as(request).await?.outcome(), v1::PinOutcome::Updated);

    // The same request ID is carried out once, whichever peer hears it again, and even after the pin is gone.
    let cid = fresh_cid();
    let request = v1::PinRequest {
        request_id: "once".into(),
        ..pin_request(&cid)
    };
    let first = client.pin_as(request.clone()).await?;
    let again = cluster.client(1).pin_as(request.clone()).await?;
    assert_eq!(first.outcome(), v1::PinOutcome::Created);
    assert_eq!(
        again.outcome(),
        v1::PinOutcome::Created,
        "the first answer is given again"
    );
    assert_eq!(
        first.pin.as_ref().map(|pin| pin.revision),
        again.pin.as_ref().map(|pin| pin.revision)
    );
    client.unpin(&cid).await?;
    cluster.client(2).pin_as(request).await?;
    let missing = client
        .get(&cid, v1::Consistency::Linearizable)
        .await
        .expect_err("it was unpinned since");
    assert_eq!(missing.code(), Code::NotFound);

    // Direct.
    let cid = fresh_cid();
    let options = v1::PinOptions {
        mode: v1::PinMode::Direct.into(),
        ..replicas_of(1)
    };
    let pin = client
        .pin_as(v1::PinRequest {
            options: Some(options),
            ..pin_request(&cid)
        })
        .await?
        .pin
        .context("a pin")?;
    assert_eq!(pin.mode(), v1::PinMode::Direct);
    let holder = cluster.fake_named(&pin.nodes[0]);
    holder
        .wait("hold it directly", LIMIT, |fake| {
            fake.pin(&cid) == Some(PinKind::Direct)
        })
        .await
}

/// A reader that asks another peer right after the answer to a write must see it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_shows_a_write_right_after_it() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let leader = cluster.leader().await?;
    for round in 0..60 {
        let cid = cid(round);
        cluster.client(leader).pin(&cid).await?;
        let follower = cluster.client((leader + 1 + round as usize % 2) % 3);
        let pin = follower.get(&cid, v1::Consistency::Unspecified).await?;
        assert_eq!(pin.cid, cid.to_string());
        let status = follower.status(&cid).await?;
        assert_eq!(status.pins, 1, "{status:?}");
        follower.unpin(&cid).await?;
        let other = cluster.client((leader + 2 - round as usize % 2) % 3);
        let gone = other
            .get(&cid, v1::Consistency::Unspecified)
            .await
            .expect_err("it was removed before");
        assert_eq!(gone.code(), Code::NotFound);
    }
    Ok(())
}

/// A pin that sets nothing has nothing, whatever was pinned before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_option_leaks_from_one_pin_to_the_next() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let source = cid(1);
    let origin = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5";
    let full = v1::PinOptions {
        name: "everything set".into(),
        metadata: HashMap::from([("owner".to_owned(), "ann".to_owned())]),
        origins: vec![origin.into()],
        expiry: Some(v1::pin_options::Expiry::ExpireInMs(3_600_000)),
        nodes: vec!["node-1".into()],
        ..replicas_of(1)
    };
    let mut plain = Vec::new();
    for round in 0..6u64 {
        let client = cluster.client(round as usize % 3);
        let request = v1::PinRequest {
            options: Some(full.clone()),
            ..pin_request(&cid(100 + round))
        };
        client.pin_as(request).await?;
        if round == 0 {
            client
                .pin_as(v1::PinRequest {
                    options: Some(full.clone()),
                    ..pin_request(&source)
                })
                .await?;
            let update = v1::UpdateRequest {
                from: source.to_string(),
                to: cid(2).to_string(),
                ..v1::UpdateRequest::default()
            };
            let made = client
                .pins
                .clone()
                .update(update)
                .await?
                .into_inner()
                .pin
                .context("a pin")?;
            assert_eq!(made.updated_from, source.to_string());
            assert_eq!(made.metadata.len(), 1, "an update does take over what the old pin has");
        }
        let cid = cid(200 + round);
        client.pin(&cid).await?;
        plain.push(cid);
    }
    cluster.caught_up().await?;
    for peer in 0..3 {
        for cid in &plain {
            let pin = cluster.client(peer).get(cid, v1::Consistency::Stale).await?;
            ensure!(
                pin.name.is_empty()
                    && pin.metadata.is_empty()
                    && pin.origins.is_empty()
                    && pin.expire_at.is_none()
                    && pin.updated_from.is_empty()
                    && pin.requested_nodes.is_empty(),
                "on peer {peer}: {pin:?}"
            );
        }
    }
    Ok(())
}

/// Several pins want one CID: it goes with the last of them, and the largest factor counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_of_one_cid_share_a_placement() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let client = cluster.client(1);
    let cid = fresh_cid();
    let of = |namespace: &str, slot: &str, replicas| v1::PinRequest {
        namespace: namespace.into(),
        slot: slot.into(),
        ..pin_replicas(&cid, replicas)
    };
    client.pin_as(of("", "", 1)).await?;
    client.pin_as(of("team-a", "", 3)).await?;
    client.pin_as(of("team-a", "second", 2)).await?;
    cluster
        .wait_until("three hold it", LIMIT, async || client.pinned_on(&cid, 3).await)
        .await?;
    assert_eq!(client.status(&cid).await?.pins, 3);
    let unpin = |namespace: &str, slot: &str| v1::UnpinRequest {
        namespace: namespace.into(),
        cid: cid.to_string(),
        slot: slot.into(),
        ..v1::UnpinRequest::default()
    };
    client.pins.clone().unpin(unpin("team-a", "")).await?;
    cluster
        .wait_until("two hold it", LIMIT, async || client.pinned_on(&cid, 2).await)
        .await?;
    client.pins.clone().unpin(unpin("", "")).await?;
    cluster
        .wait_until("two hold it still", LIMIT, async || client.pinned_on(&cid, 2).await)
        .await?;
    client.pins.clone().unpin(unpin("team-a", "second")).await?;
    for at in 0..3 {
        cluster
            .fake(at)
            .wait("let go of it", LIMIT, |fake| fake.pin(&cid).is_none())
            .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_pin_goes_by_itself() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let client = cluster.client(2);
    let (short, long) = (fresh_cid(), fresh_cid());
    for (cid, millis) in [(&short, 1_500), (&long, 3_600_000)] {
        let options = v1::PinOptions {
            expiry: Some(v1::pin_options::Expiry::ExpireInMs(millis)),
            ..replicas_of(2)
        };
        client
            .pin_as(v1::PinRequest {
                options: Some(options),
                ..pin_request(cid)
            })
            .await?;
    }
    cluster
        .wait_until("the short one is gone", LIMIT, async || {
            match client.get(&short, v1::Consistency::Linearizable).await {
                Err(status) if status.code() == Code::NotFound => Ok(()),
                other => anyhow::bail!("{other:?}"),
            }
        })
        .await?;
    for at in 0..3 {
        cluster
            .fake(at)
            .wait("let go of it", LIMIT, |fake| fake.pin(&short).is_none())
            .await?;
    }
    cluster
        .wait_until("the long one is pinned", LIMIT, async || {
            client.pinned_on(&long, 2).await
        })
        .await
        .map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn update_goes_from_one_cid_to_the_next_on_the_same_nodes() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let client = cluster.client(0);
    let (from, to) = (fresh_cid(), fresh_cid());
    let options = v1::PinOptions {
        name: "site".into(),
        ..replicas_of(2)
    };
    let old = client
        .pin_as(v1::PinRequest {
            options: Some(options),
            ..pin_request(&from)
        })
        .await?
        .pin
        .context("a pin")?;
    cluster
        .wait_until("the old one is pinned", LIMIT, async || {
            client.pinned_on(&from, 2).await
        })
        .await?;
    let request = v1::UpdateRequest {
        from: from.to_string(),
        to: to.to_string(),
        unpin_from: true,
        ..v1::UpdateRequest::default()
    };
    let new = client
        .pins
        .clone()
        .update(request)
        .await?
        .into_inner()
        .pin
        .context("a pin")?;
    assert_eq!(
        (new.name.as_str(), &new.nodes, new.updated_from),
        ("site", &old.nodes, from.to_string())
    );
    cluster
        .wait_until("the new one is pinned", LIMIT, async || client.pinned_on(&to, 2).await)
        .await?;
    for name in &old.nodes {
        let fake = cluster.fake_named(name);
        fake.wait("let go of the old one", LIMIT, |fake| fake.pin(&from).is_none())
            .await?;
        assert!(fake.pin(&to).is_some());
    }
    let missing = v1::UpdateRequest {
        from: fresh_cid().to_string(),
        to: to.to_string(),
        ..v1::UpdateRequest::default()
    };
    let refused = client
        .pins
        .clone()
        .update(missing)
        .await
        .expect_err("there is no such pin");
    assert_eq!(refused.code(), Code::NotFound);
    Ok(())
}

/// What can't be placed is refused with the reasons and leaves nothing, or waits when that was asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_node_can_take_is_refused_or_waits() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let client = cluster.client(0);
    let cid = fresh_cid();
    let refused = client
        .pin_as(pin_replicas(&cid, 4))
        .await
        .expect_err("there are three nodes");
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::FailedPrecondition, "NOT_PLACEABLE")
    );
    let missing = client
        .get(&cid, v1::Consistency::Linearizable)
        .await
        .expect_err("nothing is recorded");
    assert_eq!(missing.code(), Code::NotFound);

    let waiting = v1::PinRequest {
        allow_unplaced: true,
        ..pin_replicas(&cid, 4)
    };
    let pin = client.pin_as(waiting).await?.pin.context("a pin")?;
    assert!(!pin.unplaced.is_empty(), "{pin:?}");
    assert_eq!(client.cluster_status().await?.unplaced, 1);

    // A fourth node, attached at run time, through a peer that does not drive it.
    let fourth = FakeKubo::new().await?;
    let add = v1::AddNodeRequest {
        name: "node-4".into(),
        peer: cluster.peer(1).id(),
        api: fourth.address().to_owned(),
        ..v1::AddNodeRequest::default()
    };
    let node = client.cluster.clone().add_node(add).await?.into_inner();
    assert_eq!((node.name.as_str(), node.peer), ("node-4", cluster.peer(1).id()));
    cluster
        .wait_until("it is placed and pinned", LIMIT, async || {
            client.pinned_on(&cid, 4).await
        })
        .await?;
    assert_eq!(fourth.pin(&cid), Some(PinKind::Recursive));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everywhere_chosen_nodes_cordon_and_explain() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let client = cluster.client(1);

    let everywhere = fresh_cid();
    let pin = client
        .pin_as(pin_replicas(&everywhere, -1))
        .await?
        .pin
        .context("a pin")?;
    assert!(pin.everywhere, "{pin:?}");
    for at in 0..3 {
        cluster
            .fake(at)
            .wait("hold it", LIMIT, |fake| fake.pin(&everywhere).is_some())
            .await?;
    }

    let chosen = fresh_cid();
    let options = v1::PinOptions {
        nodes: vec!["node-3".into()],
        ..replicas_of(1)
    };
    let pin = client
        .pin_as(v1::PinRequest {
            options: Some(options),
            ..pin_request(&chosen)
        })
        .await?
        .pin
        .context("a pin")?;
    assert_eq!(pin.nodes, ["node-3"]);
    let request = v1::ExplainRequest {
        cid: chosen.to_string(),
        options: None,
    };
    let explained = client.pins.clone().explain(request).await?.into_inner();
    assert!(explained.pinned);
    assert_eq!(explained.nodes.len(), 3, "{explained:?}");
    let winners: Vec<_> = explained
        .nodes
        .iter()
        .filter(|node| node.chosen)
        .map(|node| node.node.as_str())
        .collect();
    assert_eq!(winners, ["node-3"]);
    assert!(
        explained.nodes.iter().all(|node| !node.reason.is_empty()),
        "{explained:?}"
    );

    let state = |state: v1::NodeState| v1::SetNodeStateRequest {
        node: "node-1".into(),
        state: state.into(),
    };
    client
        .cluster
        .clone()
        .set_node_state(state(v1::NodeState::Cordoned))
        .await?;
    for _ in 0..10 {
        let pin = client
            .pin_as(pin_replicas(&fresh_cid(), 2))
            .await?
            .pin
            .context("a pin")?;
        assert!(!pin.nodes.contains(&"node-1".to_owned()), "{pin:?}");
    }
    let refused = client
        .pin_as(pin_replicas(&fresh_cid(), 3))
        .await
        .expect_err("two nodes are left");
    assert!(
        refused.message().contains("node-1") || refused.message().contains("cordon"),
        "{}",
        refused.message()
    );
    assert!(
        cluster.fake(0).pin(&everywhere).is_some(),
        "a cordoned node keeps what it has"
    );
    client
        .cluster
        .clone()
        .set_node_state(state(v1::NodeState::Active))
        .await?;
    client.pin_as(pin_replicas(&fresh_cid(), 3)).await?;
    Ok(())
}

/// Readiness means that an add works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_add_right_after_the_start_succeeds() -> anyhow::Result<()> {
    let cluster = Cluster::start_unsettled(ClusterOptions::fakes(1)).await?;
    let answer = cluster.client(0).pin_as(pin_replicas(&fresh_cid(), 1)).await?;
    assert_eq!(answer.outcome(), v1::PinOutcome::Created);
    for _ in 0..3 {
        cluster.peer(0).restart().await?;
        cluster.client(0).pin_as(pin_replicas(&fresh_cid(), 1)).await?;
    }
    let cluster = Cluster::three().await?;
    for peer in [0, 1, 2] {
        cluster.peer(peer).restart().await?;
        cluster.client(peer).pin_as(pin_replicas(&fresh_cid(), 2)).await?;
    }
    Ok(())
}

/// A deadline that is passed is told, and soon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_are_kept() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    cluster.peer(1).kill9()?;
    cluster.peer(2).kill9()?;
    let mut request = tonic::Request::new(pin_request(&fresh_cid()));
    request.set_timeout(Duration::from_millis(700));
    let begun = std::time::Instant::now();
    let failed = cluster
        .client(0)
        .pins
        .clone()
        .pin(request)
        .await
        .expect_err("there is no majority");
    assert!(
        matches!(
            failed.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled
        ),
        "{failed:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    Ok(())
}
