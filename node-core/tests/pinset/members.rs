//! Peers and the tokens that let them in.

use std::time::Duration;

use node_core::PeerId;
use node_core::command::{NewPeer, Op, OpResult, RefusalKind};

use super::machine::*;

#[test]
fn a_token_admits_one_peer_once() {
    let mut machine = Machine::new(0);
    let hash = vec![7; 32];
    let expires = machine.time.plus(Duration::from_secs(60));
    machine.one(Op::CreateToken {
        hash: hash.clone(),
        expires,
    });
    let other: PeerId = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
        .parse()
        .expect("valid");
    let admit = |attempt: u8| Op::AdmitPeer {
        token_hash: hash.clone(),
        attempt: vec![attempt],
        peer: NewPeer {
            id: other,
            name: "peer-2".into(),
            ..new_peer()
        },
    };
    let OpResult::Admitted {
        raft_id,
        replaces: None,
    } = machine.one(admit(1))
    else {
        panic!("admitted")
    };
    assert_eq!(raft_id, machine.index);
    assert_eq!(
        machine.one(admit(1)),
        OpResult::Admitted {
            raft_id,
            replaces: None
        },
        "its answer was lost"
    );
    assert_eq!(
        refusal(&machine.one(admit(2))),
        Some(RefusalKind::Denied),
        "a wiped disk, or a thief"
    );
    machine.one(Op::RemovePeer { peer: other });
    assert_eq!(refusal(&machine.one(admit(1))), Some(RefusalKind::Denied));
    let fresh = vec![8; 32];
    machine.one(Op::CreateToken {
        hash: fresh.clone(),
        expires,
    });
    let again = Op::AdmitPeer {
        token_hash: fresh,
        attempt: vec![3],
        peer: NewPeer {
            id: other,
            ..new_peer()
        },
    };
    assert_eq!(
        refusal(&machine.one(again)),
        Some(RefusalKind::Denied),
        "removed for good"
    );
}

#[test]
fn an_expired_or_unknown_token_is_denied() {
    let mut machine = Machine::new(0);
    let expires = machine.time.plus(Duration::from_secs(1));
    machine.one(Op::CreateToken {
        hash: vec![7; 32],
        expires,
    });
    machine.time = expires;
    for hash in [vec![7; 32], vec![8; 32]] {
        let op = Op::AdmitPeer {
            token_hash: hash,
            attempt: vec![1],
            peer: new_peer(),
        };
        assert_eq!(refusal(&machine.one(op)), Some(RefusalKind::Denied));
    }
}
