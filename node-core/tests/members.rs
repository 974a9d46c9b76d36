//! Peers and storage nodes: what is taken of what they say about themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use node_core::command::{CommandBatch, NewPeer, Op, OpResult, Refusal, RefusalKind, Request};
use node_core::pinset::{self, Effects, MemoryKv, Settings, check_admission};
use node_core::{NodeId, NodeState, PeerId, StorageNode, Timestamp};

const FIRST: &str = "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5";
const SECOND: &str = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
const TOKEN: [u8; 32] = [7; 32];
const START: Timestamp = Timestamp::from_millis(1_000_000);

fn id(text: &str) -> PeerId {
    text.parse().expect("valid")
}

fn peer(id_text: &str, name: &str) -> NewPeer {
    NewPeer {
        id: id(id_text),
        name: name.into(),
        addresses: vec!["127.0.0.1:9096".into()],
        api_address: "127.0.0.1:9098".into(),
        version: "0".into(),
    }
}

fn node(name: &str) -> StorageNode {
    StorageNode {
        id: NodeId(0),
        name: name.into(),
        peer: id(FIRST),
        kind: "kubo".into(),
        api: "http://127.0.0.1:5001".into(),
        tags: BTreeMap::new(),
        weight: 1.0,
        state: NodeState::Active,
        auth_file: String::new(),
    }
}

/// A cluster of the peer `alpha`, with a join token.
struct Cluster {
    kv: MemoryKv,
    index: u64,
}

impl Cluster {
    fn new() -> Self {
        let mut cluster = Self {
            kv: MemoryKv::default(),
            index: 1,
        };
        cluster.apply(Op::InitCluster {
            cluster_id: "test".into(),
            settings: Settings::default(),
            peer: peer(FIRST, "alpha"),
        });
        cluster.apply(Op::CreateToken {
            hash: TOKEN.to_vec(),
            expires: START.plus(Duration::from_secs(60)),
        });
        cluster
    }

    fn apply(&mut self, op: Op) -> OpResult {
        self.index += 1;
        let batch = CommandBatch {
            time: START,
            requests: vec![Request { id: None, op }],
        };
        pinset::apply(&mut self.kv, self.index, &batch, &mut Effects::default())
            .expect("a store in memory")
            .remove(0)
    }

    fn admit(&mut self, new: NewPeer, attempt: &[u8]) -> OpResult {
        self.apply(Op::AdmitPeer {
            token_hash: TOKEN.to_vec(),
            attempt: attempt.to_vec(),
            peer: new,
        })
    }

    fn names(&self) -> Vec<String> {
        let peers = pinset::peers(&self.kv).expect("a store in memory");
        peers
            .into_iter()
            .filter(|peer| !peer.removed)
            .map(|peer| peer.name)
            .collect()
    }
}

fn refused(result: &OpResult) -> &Refusal {
    match result {
        OpResult::Refused(refusal) => refusal,
        other => panic!("{other:?} is no refusal"),
    }
}

#[test]
fn a_name_belongs_to_one_peer() {
    let mut cluster = Cluster::new();
    let result = cluster.admit(peer(SECOND, "alpha"), &[1]);
    let refusal = refused(&result);
    assert_eq!(refusal.kind, RefusalKind::AlreadyExists);
    for word in ["peer name", "\"alpha\"", FIRST, "peer.name"] {
        assert!(refusal.message.contains(word), "{word} is not in {}", refusal.message);
    }
    // The token is not used up by that.
    assert!(matches!(
        cluster.admit(peer(SECOND, "beta"), &[1]),
        OpResult::Admitted { .. }
    ));
    let renamed = Op::UpdatePeer {
        peer: peer(SECOND, "alpha"),
    };
    assert_eq!(refused(&cluster.apply(renamed)).kind, RefusalKind::AlreadyExists);
    // Whoever introduces itself as before is not refused, and a name is free when its peer was removed.
    let same = Op::UpdatePeer {
        peer: peer(SECOND, "beta"),
    };
    assert_eq!(cluster.apply(same), OpResult::Done);
    cluster.apply(Op::RemovePeer { peer: id(SECOND) });
    let taken_over = Op::UpdatePeer {
        peer: peer(FIRST, "beta"),
    };
    assert_eq!(cluster.apply(taken_over), OpResult::Done);
    assert_eq!(cluster.names(), ["beta"]);
}

/// Makes one field of something good bad.
type Spoil<T> = fn(&mut T);

#[test]
fn what_a_peer_says_of_itself_is_bounded() {
    let cases: [(Spoil<NewPeer>, &str); 5] = [
        (|peer| peer.name = "no spaces".into(), "peer name"),
        (|peer| peer.addresses = vec!["a:1".into(); 17], "addresses"),
        (|peer| peer.addresses = vec!["a".repeat(260)], "addresses"),
        (|peer| peer.api_address = "a".repeat(260), "api_address"),
        (|peer| peer.version = "1".repeat(65), "version"),
    ];
    for (spoil, word) in cases {
        let mut cluster = Cluster::new();
        let mut new = peer(SECOND, "beta");
        spoil(&mut new);
        let result = cluster.admit(new.clone(), &[1]);
        let refusal = refused(&result);
        assert_eq!(refusal.kind, RefusalKind::Invalid);
        assert!(refusal.message.contains(word), "{word} is not in {}", refusal.message);
        assert!(refusal.message.len() < 300, "{}", refusal.message);
        assert_eq!(cluster.names(), ["alpha"]);
        cluster.admit(peer(SECOND, "beta"), &[1]);
        assert_eq!(
            refused(&cluster.apply(Op::UpdatePeer { peer: new })).kind,
            RefusalKind::Invalid
        );
    }
    let mut cluster = Cluster::new();
    for attempt in [&[][..], &[1; 65]] {
        assert_eq!(
            refused(&cluster.admit(peer(SECOND, "beta"), attempt)).kind,
            RefusalKind::Invalid
        );
    }
}

#[test]
fn what_is_said_of_a_node_is_bounded() {
    let cases: [(Spoil<StorageNode>, &str); 6] = [
        (|node| node.api = "h".repeat(1_025), "api"),
        (|node| node.auth_file = "f".repeat(4_097), "auth_file"),
        (|node| node.kind = "k".repeat(33), "kind"),
        (
            |node| node.tags = (0..33).map(|n| (n.to_string(), String::new())).collect(),
            "tags",
        ),
        (
            |node| node.tags = BTreeMap::from([("zone".into(), "z".repeat(257))]),
            "tags",
        ),
        (|node| node.tags = BTreeMap::from([(String::new(), "z".into())]), "tags"),
    ];
    for (spoil, word) in cases {
        let mut cluster = Cluster::new();
        let mut node = node("node-1");
        spoil(&mut node);
        let result = cluster.apply(Op::PutNode { node });
        assert_eq!(refused(&result).kind, RefusalKind::Invalid);
        assert!(refused(&result).message.contains(word), "{result:?}");
        assert_eq!(pinset::nodes(&cluster.kv).expect("a store in memory"), []);
    }
}

/// Who brings no token is told nothing of the members, not even that a name is taken.
#[test]
fn the_leader_asks_the_same_before_it_proposes() {
    let mut cluster = Cluster::new();
    let check = |cluster: &Cluster, hash: &[u8], new: &NewPeer| {
        check_admission(&cluster.kv, START, hash, &[1], new).expect("a store in memory")
    };
    let taken = peer(SECOND, "alpha");
    let unknown = check(&cluster, &[8; 32], &taken).expect_err("unknown");
    assert_eq!(unknown.kind, RefusalKind::Denied);
    assert!(!unknown.message.contains("alpha"), "{unknown}");
    assert_eq!(
        check(&cluster, &TOKEN, &taken).expect_err("taken").kind,
        RefusalKind::AlreadyExists
    );
    let new = peer(SECOND, "beta");
    assert_eq!(check(&cluster, &TOKEN, &new), Ok(()));
    cluster.admit(new.clone(), &[1]);
    assert_eq!(check(&cluster, &TOKEN, &new), Ok(()), "its answer was lost");
    let thief = peer(FIRST, "alpha");
    assert_eq!(
        check(&cluster, &TOKEN, &thief).expect_err("used").kind,
        RefusalKind::Denied
    );
}
