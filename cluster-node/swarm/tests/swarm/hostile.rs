//! Peers that do not keep the rules: contained, named in the log, and no harm to others.

use std::time::Duration;

use bytes::Bytes;
use cluster_bitswap::{Ask, Entry, MessageBuilder, Prefix, Version, WantKind};
use cluster_swarm::{Candidate, PeerId};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::swarm::Stream;
use libp2p::{StreamProtocol, noise, tcp, yamux};
use libp2p_stream::Control;
use multiaddr::Multiaddr;

use crate::support::{LOG, Node, Over, blocks, config, next_block, raw, until, within};

const BITSWAP: StreamProtocol = StreamProtocol::new("/ipfs/bitswap/1.2.0");

/// A bare libp2p host, whose streams the test holds in its own hands.
struct Villain {
    id: PeerId,
    address: Multiaddr,
    control: Control,
    runner: tokio::task::JoinHandle<()>,
}

impl Drop for Villain {
    fn drop(&mut self) {
        self.runner.abort();
    }
}

impl Villain {
    async fn start() -> Self {
        // From here on everything is logged.
        assert!(!LOG.has(&["no such line"]));
        let mut swarm = libp2p::SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .expect("Noise works")
            .with_behaviour(|_| libp2p_stream::Behaviour::new())
            .expect("a behaviour")
            .with_swarm_config(|config| config.with_idle_connection_timeout(std::time::Duration::from_secs(600)))
            .build();
        let any = "/ip4/127.0.0.1/tcp/0".parse().expect("an address");
        swarm.listen_on(any).expect("it listens");
        let address = loop {
            if let libp2p::swarm::SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        let (id, control) = (*swarm.local_peer_id(), swarm.behaviour().new_control());
        let runner = tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        Self {
            id,
            address,
            control,
            runner,
        }
    }

    /// Is known to a node, and speaks Bitswap as far as that can see.
    async fn meet(&mut self, node: &Node) -> Stream {
        let candidate = Candidate {
            peer: self.id,
            addresses: vec![self.address.clone()],
        };
        node.swarm.connect_to(candidate).await.expect("connected");
        let stream = self.open(node).await;
        let id = self.id;
        until("it is known", || async {
            let report = node.report().await;
            report
                .peers
                .iter()
                .any(|peer| peer.peer == id && peer.bitswap.is_some())
        })
        .await;
        stream
    }

    async fn open(&mut self, node: &Node) -> Stream {
        // The one who was dialled hears a little later that it is connected.
        let mut stream = loop {
            match self.control.open_stream(node.swarm.peer_id(), BITSWAP).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            }
        };
        // The protocol is agreed on when something is written; a length of 0 is an empty message.
        stream.write_all(&[0]).await.expect("written");
        stream.flush().await.expect("written");
        stream
    }
}

fn wants(cids: impl Iterator<Item = cluster_swarm::Cid>) -> Bytes {
    let mut message = MessageBuilder::new(Version::V1_2, 4 << 20);
    for cid in cids {
        let ask = Ask::Want {
            kind: WantKind::Block,
            priority: 1,
            send_dont_have: false,
        };
        assert!(message.entry(&Entry { cid, ask }).expect("sayable"));
    }
    message.take_frame()
}

/// A good node goes on as if nothing were.
async fn works(node: &Node) {
    let other = Node::over(Over::Tcp).await;
    let content = blocks(100, 5_000);
    node.store.put(&content);
    other.fetch(&[node], &content).await;
}

async fn offences(node: &Node) -> u64 {
    node.report().await.offences
}

async fn shunned(node: &Node, villain: &Villain) {
    let id = villain.id;
    until("it is shunned", || async {
        let report = node.report().await;
        report.shunned.iter().any(|(peer, _)| *peer == id) && report.peers.iter().all(|peer| peer.peer != id)
    })
    .await;
    assert!(LOG.has(&["WARN", &id.to_string(), "shunned"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_about_a_block_is_seen_through() {
    within(async {
        let node = Node::over(Over::Tcp).await;
        let mut villain = Villain::start().await;
        let mut incoming = villain.control.accept(BITSWAP).expect("not taken");
        let mut stream = villain.meet(&node).await;
        let (cid, data) = raw("the truth");
        let mut fetch = node.swarm.fetch(vec![]).await.expect("it runs");
        fetch.want(vec![cid], true).await.expect("it runs");
        // Wait until it asks; the stream stays open, so that its wants are not lost.
        let (_, mut asked) = incoming.next().await.expect("it asks");
        let mut some = [0; 16];
        assert!(asked.read(&mut some).await.expect("a want") > 0);
        for lie in 0..4 {
            let mut message = MessageBuilder::new(Version::V1_2, 4 << 20);
            let wrong = Bytes::from(format!("lie number {lie}"));
            assert!(message.block(&Prefix::of(&cid), &wrong).expect("sayable"));
            // After the last one it is hung up on, maybe in the midst of it.
            let _ = stream.write_all(&message.take_frame()).await;
            let _ = stream.flush().await;
        }
        shunned(&node, &villain).await;
        assert!(LOG.has(&["WARN", &villain.id.to_string(), "UnaskedBlock"]));
        // The truth is still wanted, and taken from who has it.
        let honest = Node::over(Over::Tcp).await;
        honest.store.put(&[(cid, data.clone())]);
        node.meet(&honest).await;
        assert_eq!(next_block(&mut fetch).await, (cid, data));
        // The villain can't come back.
        let candidate = Candidate {
            peer: villain.id,
            addresses: vec![villain.address.clone()],
        };
        let error = node.swarm.connect_to(candidate).await.expect_err("shunned");
        assert!(matches!(error, cluster_swarm::ConnectError::Shunned(_)), "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shunned_are_forgiven_after_a_while() {
    within(async {
        let mut config = config(Over::Tcp);
        config.shun = std::time::Duration::from_secs(1);
        let node = Node::start(config).await;
        let mut villain = Villain::start().await;
        let mut stream = villain.meet(&node).await;
        for _ in 0..8 {
            // Five groups that all go on are no length.
            if stream.write_all(&[0xff; 5]).await.is_err() || stream.flush().await.is_err() {
                break;
            }
            let Ok(next) = villain.control.open_stream(node.swarm.peer_id(), BITSWAP).await else {
                break;
            };
            stream = next;
        }
        shunned(&node, &villain).await;
        until("it is forgiven", || async { node.report().await.shunned.is_empty() }).await;
        villain.meet(&node).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_too_long_are_not_read() {
    within(async {
        let node = Node::over(Over::Tcp).await;
        let mut villain = Villain::start().await;
        let mut stream = villain.meet(&node).await;
        // 64 MiB.
        stream.write_all(&[0x80, 0x80, 0x80, 0x20]).await.expect("written");
        stream.flush().await.expect("written");
        until("it is an offence", || async { offences(&node).await == 1 }).await;
        assert!(LOG.has(&["WARN", &villain.id.to_string(), "67108864", "4194304"]));
        // The stream is gone.
        let read = stream.read(&mut [0; 1]).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        works(&node).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_none_are_named_and_those_that_are_cut_are_not() {
    within(async {
        let node = Node::over(Over::Tcp).await;
        let mut villain = Villain::start().await;
        let mut first = villain.meet(&node).await;
        for round in 0..8 {
            // A reset looks the same.
            let mut cut = villain.open(&node).await;
            cut.write_all(&[100, 1, 2, 3]).await.expect("written");
            cut.close().await.expect("closed");
            let read = cut.read(&mut [0; 1]).await;
            assert!(matches!(read, Ok(0) | Err(_)), "{round}: {read:?}");
        }
        assert_eq!(offences(&node).await, 0);
        first.write_all(&[100, 1, 2]).await.expect("written");
        first.close().await.expect("closed");
        let mut none = villain.open(&node).await;
        none.write_all(&[3, 0xff, 0xff, 0xff]).await.expect("written");
        none.flush().await.expect("written");
        until("it is an offence", || async { offences(&node).await == 1 }).await;
        assert!(LOG.has(&["WARN", &villain.id.to_string(), "protobuf"]));
        works(&node).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_wants_is_kept_within_bounds() {
    within(async {
        let node = Node::over(Over::Tcp).await;
        let mut villain = Villain::start().await;
        let mut stream = villain.meet(&node).await;
        for round in 0..20u32 {
            let cids = (0..10_000u32).map(|number| raw((round << 16 | number).to_be_bytes().to_vec()).0);
            stream.write_all(&wants(cids)).await.expect("written");
        }
        stream.flush().await.expect("written");
        let sent = 20 * 10_000 * 40;
        until("all of it is read", || async { node.report().await.bytes_in > sent }).await;
        assert!(node.report().await.wants_of_others <= 1_024);
        works(&node).await;
        drop(stream);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_streams_are_cut_off() {
    within(async {
        let node = Node::over(Over::Tcp).await;
        let mut villain = Villain::start().await;
        let mut streams = vec![villain.meet(&node).await];
        // Each says that a message of 4 MiB follows, and sends its beginning.
        for _ in 0..2_000 {
            // Those that are too many are reset, which is noticed sooner or later.
            let Ok(mut stream) = villain.control.open_stream(node.swarm.peer_id(), BITSWAP).await else {
                continue;
            };
            let _ = stream.write_all(&[0x80, 0x80, 0x80, 0x02]).await;
            let _ = stream.write_all(&[0; 20_000]).await;
            if stream.flush().await.is_ok() {
                streams.push(stream);
            }
        }
        until("it is named", || async {
            LOG.has(&["WARN", &villain.id.to_string(), "streams beyond"])
        })
        .await;
        works(&node).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_stalls_is_given_up() {
    within(async {
        let node = Node::over(Over::Tcp).await;
        let mut villain = Villain::start().await;
        let mut stream = villain.meet(&node).await;
        stream.write_all(&[0x80, 0x80, 0x80, 0x02]).await.expect("written");
        stream.write_all(&[0; 100_000]).await.expect("written");
        stream.flush().await.expect("written");
        // In the meantime others are served.
        works(&node).await;
        until("it is named", || async {
            LOG.has(&["WARN", &villain.id.to_string(), "did not go on"])
        })
        .await;
    })
    .await;
}

/// Sooner than a message that stalls is given up, and long enough for a busy machine.
const SOON: Duration = Duration::from_secs(15);

/// Eight peers with eight streams each, all of which hold back the end of a message that is just a large one.
async fn hold_all_places(node: &Node) -> Vec<(Villain, Vec<Stream>)> {
    let frame = wants((0..500u32).map(|number| raw(number.to_be_bytes().to_vec()).0));
    let (beginning, large) = (16_900, 16 << 10);
    assert!(frame.len() > beginning);
    let mut villains = Vec::new();
    for _ in 0..8 {
        let mut villain = Villain::start().await;
        let mut streams = vec![villain.meet(node).await];
        while streams.len() < 8 {
            streams.push(villain.open(node).await);
        }
        for stream in &mut streams {
            stream.write_all(&frame[..beginning]).await.expect("written");
            stream.flush().await.expect("written");
        }
        villains.push((villain, streams));
    }
    until("all of it is read that is", || async {
        node.report().await.bytes_in > 64 * large
    })
    .await;
    villains
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_that_do_not_go_on_hold_up_no_block() {
    within(async {
        let (node, honest) = (Node::over(Over::Tcp).await, Node::over(Over::Tcp).await);
        let content = blocks(64, 256 << 10);
        honest.store.put(&content);
        let villains = hold_all_places(&node).await;
        let fetched = tokio::time::timeout(SOON, node.fetch(&[&honest], &content)).await;
        assert!(fetched.is_ok(), "the blocks did not come");
        drop(villains);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_that_do_not_go_on_give_way_to_a_long_wantlist() {
    within(async {
        let node = Node::over(Over::Tcp).await;
        let villains = hold_all_places(&node).await;
        // One that is asked for nothing, and so has no place kept free.
        let mut honest = Villain::start().await;
        let mut stream = honest.meet(&node).await;
        let cids = (0..1_000u32).map(|number| raw(number.to_be_bytes().to_vec()).0);
        stream.write_all(&wants(cids)).await.expect("written");
        stream.flush().await.expect("written");
        let heard = until("it is heard", || async { node.report().await.wants_of_others == 1_000 });
        assert!(tokio::time::timeout(SOON, heard).await.is_ok(), "it was not heard");
        // Being slow is not forbidden.
        assert_eq!(offences(&node).await, 0);
        drop((villains, stream));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_what_it_wanted_holds_its_share_only() {
    within(async {
        let node = Node::over(Over::Tcp).await;
        let content = blocks(64, 1 << 20);
        node.store.put(&content);
        let mut villain = Villain::start().await;
        let mut incoming = villain.control.accept(BITSWAP).expect("not taken");
        let mut stream = villain.meet(&node).await;
        stream
            .write_all(&wants(content.iter().map(|(cid, _)| *cid)))
            .await
            .expect("written");
        stream.flush().await.expect("written");
        let (_, unread) = incoming.next().await.expect("it answers");
        works(&node).await;
        let read = node.store.read.load(std::sync::atomic::Ordering::Relaxed);
        // A turn and the share of a peer, some MiB, and the 100 small ones that were read above.
        assert!(read <= 100 + 16, "{read} blocks were read for a peer that takes none");
        drop((unread, stream));
    })
    .await;
}
