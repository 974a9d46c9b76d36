//! `pin/add`, `pin/rm` and `pin/update`.

use std::time::Duration;

use anyhow::ensure;
use cluster_proto::v1;
use cluster_tests::cluster::{Cluster, ClusterOptions};
use cluster_tests::content::{cid, cid_v0, fresh_cid};
use cluster_tests::fake_kubo::Fault;
use cluster_tests::raw_http::request;
use serde_json::json;

use super::{Proxy, held, kubo_error, pins};

async fn mode_of(cluster: &Cluster, cid: &node_core::Cid) -> anyhow::Result<v1::PinMode> {
    let pin = cluster.any()?.get(cid, v1::Consistency::Linearizable).await?;
    Ok(pin.mode())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_are_made_and_removed_in_every_form() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(3)).await?;
    let proxy = Proxy::of(&cluster, 1);
    let client = cluster.any()?;

    // In the query, in the path, with a slash behind it, as a path of content, several at once.
    let (one, two, three, four, five) = (cid(1), cid_v0(2), cid(3), cid(4), cid(5));
    let answer = proxy.call(&format!("pin/add?arg={one}&name=a+name")).await?;
    assert_eq!(answer.json(200)?, pins(&[one]));
    assert!(
        answer
            .header("server")
            .is_some_and(|server| server.starts_with("ipfs-cluster/ipfsproxy/"))
    );
    assert_eq!(proxy.call(&format!("pin/add/{two}")).await?.json(200)?, pins(&[two]));
    assert_eq!(
        proxy.call(&format!("pin/add/{three}/")).await?.json(200)?,
        pins(&[three])
    );
    assert_eq!(
        proxy.call(&format!("pin/add/ipfs/{four}")).await?.json(200)?,
        pins(&[four])
    );
    // An encoded slash is one to Kubo's router, so it is to ours.
    assert_eq!(
        proxy.call(&format!("pin%2Fadd?arg=/ipfs/{five}/")).await?.json(200)?,
        pins(&[five])
    );
    for cid in [one, two, three, four, five] {
        held(&cluster, &cid, 2).await?;
        assert_eq!(mode_of(&cluster, &cid).await?, v1::PinMode::Recursive);
    }
    let pin = client.get(&one, v1::Consistency::Linearizable).await?;
    assert_eq!(pin.name, "a name");
    let (six, seven) = (cid(6), cid(7));
    let answer = proxy
        .call(&format!("pin/add?arg={six}&arg={seven}&recursive=false"))
        .await?;
    assert_eq!(answer.json(200)?, pins(&[six, seven]));
    for cid in [six, seven] {
        assert_eq!(mode_of(&cluster, &cid).await?, v1::PinMode::Direct);
    }
    let eight = cid(8);
    proxy
        .call(&format!("pin/add?arg={eight}&type=direct"))
        .await?
        .json(200)?;
    assert_eq!(mode_of(&cluster, &eight).await?, v1::PinMode::Direct);
    // A pin of the whole does not shrink by accident, and a direct one may grow.
    let message = kubo_error(&proxy.call(&format!("pin/add?arg={one}&recursive=false")).await?, 500)?;
    assert!(message.contains("already pinned recursively"), "{message}");
    proxy.call(&format!("pin/add?arg={eight}")).await?.json(200)?;
    assert_eq!(mode_of(&cluster, &eight).await?, v1::PinMode::Recursive);

    // Paths that are not clean are redirected and do nothing.
    let answer = request(&proxy.0, "POST", &format!("/api/v0//pin/rm/{one}")).await?;
    assert_eq!(
        (answer.status, answer.header("location")),
        (301, Some(format!("/api/v0/pin/rm/{one}").as_str()))
    );
    client.get(&one, v1::Consistency::Linearizable).await?;

    assert_eq!(
        proxy.call(&format!("pin/rm?arg={one}&arg={two}")).await?.json(200)?,
        pins(&[one, two])
    );
    assert_eq!(proxy.call(&format!("pin/rm/{three}")).await?.json(200)?, pins(&[three]));
    assert_eq!(
        proxy.call(&format!("pin/rm/ipfs/{four}/")).await?.json(200)?,
        pins(&[four])
    );
    for gone in [one, four] {
        let error = client.get(&gone, v1::Consistency::Linearizable).await;
        ensure!(error.is_err_and(|error| error.code() == tonic::Code::NotFound));
        let message = kubo_error(&proxy.call(&format!("pin/rm?arg={gone}")).await?, 500)?;
        assert!(
            message.contains("not pinned") && message.contains("pin is not part of the pinset"),
            "{message}"
        );
    }

    for (call, words) in [
        ("pin/add", "is required"),
        ("pin/add/", "is required"),
        ("pin/add?arg=", "is required"),
        ("pin/rm", "is required"),
        ("pin/add?arg=nonsense", "invalid path"),
        ("pin/add/ipfs/nonsense", "invalid path"),
        ("pin/rm?arg=nonsense", "invalid path"),
    ] {
        let message = kubo_error(&proxy.call(call).await?, 500)?;
        assert!(message.contains(words), "{call}: {message}");
    }
    let long = "x".repeat(5_000);
    let message = kubo_error(&proxy.call(&format!("pin/add?arg={one}&name={long}")).await?, 500)?;
    assert!(message.contains("name"), "{message}");
    // Only POST, as Kubo.
    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        let answer = request(&proxy.0, method, &format!("/api/v0/pin/add?arg={one}")).await?;
        kubo_error(&answer, 405)?;
        assert_eq!(answer.header("allow"), Some("OPTIONS, POST"));
    }
    let answer = request(&proxy.0, "OPTIONS", "/api/v0/pin/add").await?;
    assert!(matches!(answer.status, 200 | 204 | 404 | 405), "{}", answer.status);
    assert!(client.get(&one, v1::Consistency::Linearizable).await.is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_are_updated() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let proxy = Proxy::of(&cluster, 0);
    let client = cluster.any()?;
    let (one, two, three) = (cid(1), cid(2), cid(3));
    proxy.call(&format!("pin/add?arg={one}&name=kept")).await?.json(200)?;

    // The one error that is a 400.
    for call in [
        "pin/update".to_owned(),
        format!("pin/update?arg={one}"),
        format!("pin/update?arg={one}&arg="),
    ] {
        let message = kubo_error(&proxy.call(&call).await?, 400)?;
        assert!(message.contains("is required"), "{message}");
    }
    let answer = proxy
        .call(&format!("pin/update?arg=/ipfs/{one}&arg={two}&unpin=false"))
        .await?;
    assert_eq!(answer.json(200)?, pins(&[one, two]));
    client.get(&one, v1::Consistency::Linearizable).await?;
    let pin = client.get(&two, v1::Consistency::Linearizable).await?;
    assert_eq!(pin.name, "kept");
    let answer = proxy.call(&format!("pin/update?arg={two}&arg={three}")).await?;
    assert_eq!(answer.json(200)?, pins(&[two, three]));
    assert!(client.get(&two, v1::Consistency::Linearizable).await.is_err());
    // To itself changes nothing.
    proxy
        .call(&format!("pin/update?arg={three}&arg={three}"))
        .await?
        .json(200)?;
    client.get(&three, v1::Consistency::Linearizable).await?;
    let message = kubo_error(&proxy.call(&format!("pin/update?arg={two}&arg={one}")).await?, 500)?;
    assert!(message.contains("not recursively pinned"), "{message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_told_until_the_pin_is_held() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(2)).await?;
    let proxy = Proxy::of(&cluster, 0);
    let slow = fresh_cid();
    for node in 0..2 {
        cluster.fake(node).fail_pin(&slow, Fault::Delay { millis: 2_000 });
    }
    // Without it the answer comes at once.
    let begun = std::time::Instant::now();
    proxy.call(&format!("pin/add?arg={}", fresh_cid())).await?.json(200)?;
    assert!(begun.elapsed() < Duration::from_secs(2));

    let begun = std::time::Instant::now();
    let answer = proxy.call(&format!("pin/add?arg={slow}&progress=true")).await?;
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(answer.header("x-chunked-output"), Some("1"));
    let lines = answer.lines()?;
    let (last, before) = lines.split_last().expect("lines");
    assert_eq!(last, &pins(&[slow]));
    assert!(
        before.len() > 1 && before.iter().all(|line| line["Progress"].is_u64()),
        "{lines:?}"
    );
    let status = cluster.any()?.status(&slow).await?;
    assert_eq!(status.status(), v1::Status::Pinned);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_may_wait_for_the_content() -> anyhow::Result<()> {
    let options = ClusterOptions::fakes(1).with("proxy.wait", "yes");
    let cluster = Cluster::start(options).await?;
    let proxy = Proxy::of(&cluster, 0);
    let slow = fresh_cid();
    cluster.fake(0).fail_pin(&slow, Fault::Delay { millis: 2_000 });
    assert_eq!(
        proxy.call(&format!("pin/add?arg={slow}")).await?.json(200)?,
        pins(&[slow])
    );
    assert_eq!(cluster.any()?.status(&slow).await?.status(), v1::Status::Pinned);
    assert_eq!(
        proxy.call("pin/ls").await?.json(200)?,
        json!({ "Keys": { slow.to_string(): { "Type": "recursive", "Name": "" } } })
    );
    Ok(())
}
