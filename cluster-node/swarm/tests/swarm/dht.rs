//! The DHT of a local network.

use cluster_swarm::{Candidate, DhtError, DhtMode, SwarmConfig};

use crate::support::{Node, Over, config, raw, until, within};

fn lan(bootstrap: &[&Node], dht: DhtMode) -> SwarmConfig {
    SwarmConfig {
        dht,
        bootstrap: bootstrap.iter().map(|node| node.swarm.addresses().remove(0)).collect(),
        ..config(Over::Tcp)
    }
}

async fn found(node: &Node, cid: cluster_swarm::Cid) -> Vec<Candidate> {
    let mut providers = node.swarm.find_providers(cid).await.expect("somebody can be asked");
    let mut found = Vec::new();
    while let Some(candidate) = providers.recv().await {
        found.push(candidate);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_provides_another_finds() {
    within(async {
        let first = Node::start(lan(&[], DhtMode::Auto)).await;
        let (cid, data) = raw("provided");
        // Alone there is nobody to tell or to ask.
        assert_eq!(first.swarm.provide(cid).await, Err(DhtError::NoPeers));
        let error = first.swarm.find_providers(cid).await.map(drop);
        assert_eq!(error, Err(DhtError::NoPeers));
        let provider = Node::start(lan(&[&first], DhtMode::Server)).await;
        let seeker = Node::start(lan(&[&first], DhtMode::Client)).await;
        for node in [&provider, &seeker] {
            until("it found into the DHT", || async { node.report().await.dht_peers > 0 }).await;
        }
        until("a client does not answer", || async {
            let (server, client) = (provider.report().await, seeker.report().await);
            server.dht_server && !client.dht_server
        })
        .await;
        assert!(provider.swarm.provide(cid).await.expect("somebody to tell") >= 1);
        until("it is found", || async {
            let found = found(&seeker, cid).await;
            found.iter().any(|candidate| candidate.peer == provider.swarm.peer_id())
        })
        .await;
        let candidate = found(&seeker, cid).await;
        let candidate = candidate
            .into_iter()
            .find(|candidate| candidate.peer == provider.swarm.peer_id());
        let candidate = candidate.expect("found");
        assert!(!candidate.addresses.is_empty());
        // The address is of use on its own, and the provider has what it provides.
        provider.store.put(&[(cid, data.clone())]);
        let stranger = Node::over(Over::Tcp).await;
        let mut fetch = stranger.swarm.fetch(vec![candidate]).await.expect("it runs");
        fetch.want(vec![cid], true).await.expect("it runs");
        assert_eq!(crate::support::next_block(&mut fetch).await, (cid, data));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_asked_itself_says_what_it_provides() {
    within(async {
        let provider = Node::start(lan(&[], DhtMode::Server)).await;
        let (cid, _) = raw("alone");
        assert_eq!(provider.swarm.provide(cid).await, Err(DhtError::NoPeers));
        let seeker = Node::start(lan(&[&provider], DhtMode::Client)).await;
        until("it found into the DHT", || async {
            seeker.report().await.dht_peers > 0
        })
        .await;
        let found = found(&seeker, cid).await;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].peer, provider.swarm.peer_id());
        let nothing = self::found(&seeker, raw("nothing").0).await;
        assert_eq!(nothing, []);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_dht_there_is_none() {
    within(async {
        let node = Node::over(Over::Tcp).await;
        let (cid, _) = raw("x");
        assert_eq!(node.swarm.provide(cid).await, Err(DhtError::Off));
        assert_eq!(node.swarm.find_providers(cid).await.map(drop), Err(DhtError::Off));
        assert_eq!(node.report().await.dht_peers, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_keys_are_provided() {
    within(async {
        let first = Node::start(lan(&[], DhtMode::Server)).await;
        let provider = Node::start(lan(&[&first], DhtMode::Server)).await;
        until("it found into the DHT", || async {
            provider.report().await.dht_peers > 0
        })
        .await;
        let cids: Vec<_> = (0..1_500u32)
            .map(|number| raw(number.to_be_bytes().to_vec()).0)
            .collect();
        for chunk in cids.chunks(32) {
            let rounds = chunk.iter().map(|cid| provider.swarm.provide(*cid));
            for told in futures::future::join_all(rounds).await {
                told.expect("somebody to tell");
            }
        }
        let seeker = Node::start(lan(&[&first], DhtMode::Client)).await;
        until("it found into the DHT", || async {
            seeker.report().await.dht_peers > 0
        })
        .await;
        for cid in cids.iter().step_by(100) {
            let found = found(&seeker, *cid).await;
            assert!(found.iter().any(|candidate| candidate.peer == provider.swarm.peer_id()));
        }
    })
    .await;
}
