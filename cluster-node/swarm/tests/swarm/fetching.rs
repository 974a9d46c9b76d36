//! Fetching from one node and from several.

use std::collections::HashSet;

use bytes::Bytes;
use cluster_swarm::{FETCH_WANTS_MAX, FetchEvent, Refusal};

use crate::support::{BOTH, Node, Over, blocks, next_block, raw, until, within};

#[tokio::test(flavor = "multi_thread")]
async fn blocks_of_all_sizes() {
    within(async {
        for over in BOTH {
            let (server, client) = (Node::over(over).await, Node::over(over).await);
            let mut content = vec![raw(Bytes::new()), raw("a")];
            content.extend([1_000, 16 << 10, 256 << 10, 1 << 20, 2 << 20].map(|bytes| blocks(1, bytes).remove(0)));
            server.store.put(&content);
            client.fetch(&[&server], &content).await;
            let report = client.report().await;
            assert!(report.bytes_in > 3 << 20);
            assert_eq!((report.offences, report.peers[0].offences), (0, 0));
            assert_eq!(report.peers[0].bitswap, Some("/ipfs/bitswap/1.2.0"));
            assert!(
                report.peers[0].agent.starts_with("pinfleet/"),
                "{}",
                report.peers[0].agent
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_blocks() {
    within(async {
        for over in BOTH {
            let (server, client) = (Node::over(over).await, Node::over(over).await);
            let content = blocks(10_000, 1_100);
            server.store.put(&content);
            client.fetch(&[&server], &content).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_blocks() {
    within(async {
        let (server, client) = (Node::over(Over::Tcp).await, Node::over(Over::Tcp).await);
        let content = blocks(500, 100);
        server.store.put(&content);
        client.meet(&server).await;
        let mut fetch = client.swarm.fetch(vec![server.candidate()]).await.expect("it runs");
        for (cid, data) in content {
            fetch.want(vec![cid], false).await.expect("it runs");
            assert_eq!(next_block(&mut fetch).await, (cid, data));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_peers_share_the_work() {
    within(async {
        for over in BOTH {
            let (one, two, client) = (Node::over(over).await, Node::over(over).await, Node::over(over).await);
            let content = blocks(1_500, 32 << 10);
            one.store.put(&content);
            two.store.put(&content);
            client.meet(&one).await;
            client.meet(&two).await;
            let candidates = vec![one.candidate(), two.candidate()];
            let mut fetch = client.swarm.fetch(candidates).await.expect("it runs");
            let cids = content.iter().map(|(cid, _)| *cid).collect();
            fetch.want(cids, false).await.expect("it runs");
            for _ in &content {
                next_block(&mut fetch).await;
            }
            let report = fetch.report().await.expect("it runs");
            assert_eq!(report.session.blocks, 1_500);
            for node in [&one, &two] {
                let id = node.swarm.peer_id();
                let (_, served) = report.peers.iter().find(|(peer, _)| *peer == id).expect("a candidate");
                assert!(served.blocks > 100, "{served:?}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_dies_in_the_middle_is_replaced() {
    within(async {
        for over in BOTH {
            let (one, two, client) = (Node::over(over).await, Node::over(over).await, Node::over(over).await);
            let content = blocks(1_000, 64 << 10);
            one.store.put(&content);
            two.store.put(&content);
            client.meet(&one).await;
            client.meet(&two).await;
            let candidates = vec![one.candidate(), two.candidate()];
            let mut fetch = client.swarm.fetch(candidates).await.expect("it runs");
            let cids = content.iter().map(|(cid, _)| *cid).collect();
            fetch.want(cids, false).await.expect("it runs");
            let mut came = HashSet::new();
            while came.len() < content.len() {
                came.insert(next_block(&mut fetch).await.0);
                if came.len() == 100 {
                    one.swarm.shutdown().await;
                }
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_is_made_again() {
    within(async {
        let (server, client) = (Node::over(Over::Tcp).await, Node::over(Over::Tcp).await);
        let content = blocks(1_000, 16 << 10);
        server.store.put(&content);
        client.meet(&server).await;
        let mut fetch = client.swarm.fetch(vec![server.candidate()]).await.expect("it runs");
        let cids = content.iter().map(|(cid, _)| *cid).collect();
        fetch.want(cids, false).await.expect("it runs");
        for came in 0..content.len() {
            next_block(&mut fetch).await;
            if came % 300 == 100 {
                client.swarm.disconnect(server.swarm.peer_id()).await.expect("it runs");
                fetch.candidates(vec![server.candidate()]).await.expect("it runs");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_it_until_somebody_does() {
    within(async {
        let (server, client) = (Node::over(Over::Tcp).await, Node::over(Over::Tcp).await);
        client.meet(&server).await;
        let (cid, data) = raw("late");
        let mut fetch = client.swarm.fetch(vec![]).await.expect("it runs");
        fetch.want(vec![cid], true).await.expect("it runs");
        assert_eq!(fetch.next().await, Some(FetchEvent::NobodyHas(vec![cid])));
        server.store.put(&[(cid, data.clone())]);
        server.swarm.stored(vec![(cid, data.len())]).await.expect("it runs");
        assert_eq!(next_block(&mut fetch).await, (cid, data));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_another_way_is_held() {
    within(async {
        let client = Node::over(Over::Tcp).await;
        let (cid, data) = raw("elsewhere");
        let mut fetch = client.swarm.fetch(vec![]).await.expect("it runs");
        fetch.want(vec![cid], true).await.expect("it runs");
        assert_eq!(fetch.next().await, Some(FetchEvent::NobodyHas(vec![cid])));
        client.store.put(&[(cid, data.clone())]);
        client.swarm.stored(vec![(cid, data.len())]).await.expect("it runs");
        assert_eq!(fetch.next().await, Some(FetchEvent::Held(cid)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_is_cancelled() {
    within(async {
        let (server, client) = (Node::over(Over::Tcp).await, Node::over(Over::Tcp).await);
        client.meet(&server).await;
        let fetch = client.swarm.fetch(vec![server.candidate()]).await.expect("it runs");
        let cids: Vec<_> = blocks(50, 10).into_iter().map(|(cid, _)| cid).collect();
        fetch.want(cids.clone(), true).await.expect("it runs");
        until("the wants are known", || async {
            server.report().await.wants_of_others >= 50
        })
        .await;
        assert_eq!(client.report().await.wanted, 50);
        fetch.unwant(cids[..20].to_vec()).await.expect("it runs");
        until("some are cancelled", || async {
            server.report().await.wants_of_others == 30
        })
        .await;
        drop(fetch);
        until("all are cancelled", || async {
            server.report().await.wants_of_others == 0
        })
        .await;
        assert_eq!(client.report().await.fetches, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_take_blocks_holds_up_itself_alone() {
    within(async {
        let (server, client) = (Node::over(Over::Tcp).await, Node::over(Over::Tcp).await);
        let content = blocks(400, 512 << 10);
        server.store.put(&content);
        client.meet(&server).await;
        let mut slow = client.swarm.fetch(vec![server.candidate()]).await.expect("it runs");
        let cids = content.iter().map(|(cid, _)| *cid).collect();
        slow.want(cids, false).await.expect("it runs");
        until("it holds as much as it may", || async {
            client.report().await.bytes_in > 32 << 20
        })
        .await;
        // Another fetch is not held up, and by the time that it is done the first one would have had all.
        let others = blocks(200, 500 << 10);
        server.store.put(&others);
        client.fetch(&[&server], &others).await;
        let most = (200 * 500 + 32 * 1024 + 65 * 512) << 10;
        assert!(client.report().await.bytes_in < most + (most >> 6));
        for _ in &content {
            next_block(&mut slow).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_wants_are_refused() {
    within(async {
        let client = Node::over(Over::Tcp).await;
        let mut fetch = client.swarm.fetch(vec![]).await.expect("it runs");
        let cids = blocks(FETCH_WANTS_MAX + 3, 10)
            .into_iter()
            .map(|(cid, _)| cid)
            .collect();
        fetch.want(cids, false).await.expect("it runs");
        loop {
            match fetch.next().await.expect("it runs") {
                FetchEvent::Refused { cids, reason } => {
                    assert_eq!((cids.len(), reason), (3, Refusal::SessionFull));
                    return;
                }
                FetchEvent::NobodyHas(_) => {}
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_everything() {
    within(async {
        let (server, client) = (Node::over(Over::Tcp).await, Node::over(Over::Tcp).await);
        client.meet(&server).await;
        let mut fetch = client.swarm.fetch(vec![server.candidate()]).await.expect("it runs");
        fetch.want(vec![raw("nowhere").0], true).await.expect("it runs");
        client.swarm.shutdown().await;
        while let Some(event) = fetch.next().await {
            assert!(matches!(event, FetchEvent::NobodyHas(_)));
        }
        assert!(client.swarm.report().await.is_err());
        assert!(client.swarm.connect_to(server.candidate()).await.is_err());
        assert!(client.swarm.fetch(vec![]).await.is_err());
        until("the other one notices", || async {
            server.report().await.peers.is_empty()
        })
        .await;
        let listener = server.swarm.listeners().remove(0);
        server.swarm.shutdown().await;
        // The port is free again.
        let mut config = crate::support::config(Over::Tcp);
        config.listen = vec![listener];
        Node::start(config).await;
    })
    .await;
}
