//! Gateways and delegated routers, played by small servers.

use std::time::Duration;

use cluster_ipfs::IpfsNode as _;
use node_core::{ErrorClass, PinMode};

use crate::support::*;

async fn behind(gateways: &[&Gateway], car: bool) -> Node {
    let urls: Vec<String> = gateways.iter().map(|gateway| gateway.server.url.clone()).collect();
    Node::with(|config| {
        config.gateways.gateways = urls;
        config.gateways.car = car;
        config.gateways.silence = Duration::from_secs(5);
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_brings_block_after_block() {
    let blocks = tree(1, 3, 20, 2_000);
    let gateway = Gateway::start(Manner::Honest, &blocks).await;
    let node = behind(&[&gateway], false).await;
    let added = within(
        "pinning",
        node.node.pin_add(&root(&blocks), PinMode::Recursive, "", &silent),
    )
    .await;
    assert_eq!(added.expect("pinned").progress.blocks, blocks.len() as u64);
    assert_eq!((gateway.raw_requests(), gateway.car_requests()), (blocks.len(), 0));
    let report = node.node.report().await.expect("report");
    assert_eq!(report.fetched.gateway_bytes, bytes_of(&blocks));
    assert_eq!(
        (report.gateways[0].blocks, report.gateways[0].failures),
        (blocks.len() as u64, 0)
    );
    assert_eq!(report.gateways[0].requests, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_brings_all_at_once() {
    let blocks = tree(2, 5, 40, 1_000);
    let gateway = Gateway::start(Manner::Honest, &blocks).await;
    let node = behind(&[&gateway], true).await;
    within(
        "pinning",
        node.node.pin_add(&root(&blocks), PinMode::Recursive, "", &silent),
    )
    .await
    .expect("pinned");
    assert_eq!(node.has(&blocks), blocks.len());
    assert_eq!((gateway.raw_requests(), gateway.car_requests()), (0, 1));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_without_cars_is_asked_for_blocks() {
    let blocks = tree(3, 2, 5, 1_000);
    let gateway = Gateway::start(Manner::RawOnly, &blocks).await;
    let other = Gateway::start(Manner::Honest, &[]).await;
    let node = behind(&[&other, &gateway], true).await;
    within(
        "pinning",
        node.node.pin_add(&root(&blocks), PinMode::Recursive, "", &silent),
    )
    .await
    .expect("pinned");
    assert_eq!(node.has(&blocks), blocks.len());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_that_lie_or_are_broken_do_no_harm() {
    let blocks = tree(4, 2, 10, 1_000);
    for car in [false, true] {
        let liar = Gateway::start(Manner::Lies, &blocks).await;
        let broken = Gateway::start(Manner::Broken, &blocks).await;
        let node = behind(&[&liar, &broken], car).await;
        let error = within(
            "pinning",
            node.node.pin_add(&root(&blocks), PinMode::Recursive, "", &silent),
        )
        .await;
        assert_eq!(error.expect_err("nobody has it").class, ErrorClass::NotFound);
        assert_eq!(node.has(&blocks), 0);
        let report = node.node.report().await.expect("report");
        assert!(
            report
                .gateways
                .iter()
                .all(|gateway| gateway.failures > 0 && gateway.blocks == 0)
        );
        node.stop().await;

        let honest = Gateway::start(Manner::Honest, &blocks).await;
        let node = behind(&[&liar, &broken, &honest], car).await;
        within(
            "pinning",
            node.node.pin_add(&root(&blocks), PinMode::Recursive, "", &silent),
        )
        .await
        .expect("pinned");
        assert_eq!(node.has(&blocks), blocks.len());
        let report = node.node.report().await.expect("report");
        assert!(
            report.gateways[..2].iter().all(|gateway| gateway.failures >= 3),
            "{:?}",
            report.gateways
        );
        // Three failures each, and a few that were under way already.
        assert!(liar.raw_requests() <= 12, "{}", liar.raw_requests());
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn providers_come_from_a_router() {
    let a = Node::start().await;
    let blocks = tree(5, 2, 10, 1_000);
    a.put(&blocks).await;
    let addresses: Vec<String> = a.node.addresses().iter().map(ToString::to_string).collect();
    let id = a.node.peer_id();
    let record = format!(
        r#"{{"Schema":"peer","ID":"{id}","Addrs":[{}],"Protocols":["transport-bitswap"]}}"#,
        addresses
            .iter()
            .map(|address| format!("{address:?}"))
            .collect::<Vec<_>>()
            .join(",")
    );
    let stranger = r#"{"Schema":"unknown","ID":7}"#;
    let answers = [
        ("application/json", format!(r#"{{"Providers":[{record}]}}"#)),
        ("application/x-ndjson", format!("{record}\n\n{record}")),
    ];
    for (kind, answer) in answers {
        let router = RoutingServer::start(kind, answer).await;
        let broken = RoutingServer::start("application/x-ndjson", stranger.repeat(3)).await;
        let node = Node::with(|config| {
            config.routing.routers = vec![broken.server.url.clone(), router.server.url.clone()];
        })
        .await;
        within(
            "pinning",
            node.node.pin_add(&root(&blocks), PinMode::Recursive, "", &silent),
        )
        .await
        .expect("pinned");
        assert_eq!(node.has(&blocks), blocks.len());
        assert_eq!(
            router.asked(),
            [format!("providers/{}", root(&blocks))],
            "once, for the root"
        );
        let report = node.node.report().await.expect("report");
        assert_eq!(
            (report.fetched.searches, report.routers[1].answers),
            (1, 1),
            "{:?}",
            report.routers
        );
        assert_eq!(report.routers[0].failures, 1, "{:?}", report.routers);
        node.stop().await;
    }
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_without_an_address_is_found_by_a_router() {
    let a = Node::start().await;
    let id = a.node.peer_id();
    let address = a.node.addresses()[0].to_string();
    let answer = format!(r#"{{"Peers":[{{"Schema":"peer","ID":"{id}","Addrs":["{address}"]}}]}}"#);
    let router = RoutingServer::start("application/json", answer).await;
    let node = Node::with(|config| config.routing.routers = vec![router.server.url.clone()]).await;
    let connected = within("connecting", node.node.swarm_connect(&[format!("/p2p/{id}")])).await;
    assert_eq!((connected.connected, connected.failures), (1, vec![]));
    assert!(router.asked()[0].starts_with("peers/bafz"), "{:?}", router.asked());
    a.stop().await;
    node.stop().await;
}
