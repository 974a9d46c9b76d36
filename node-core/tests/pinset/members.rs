//! Peers and the tokens that let them in.

use std::time::Duration;

use node_core::command::{CommandBatch, NewPeer, Op, OpResult, RefusalKind, Request};
use node_core::pinset::{self, Settings};
use node_core::{PeerId, Replication, Timestamp};

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

fn settings(machine: &Machine) -> Settings {
    pinset::header(&machine.kv).expect("memory").settings
}

/// Each changes one part of what it read and replaces the whole: the later one would put the other part back.
#[test]
fn of_two_changes_of_the_settings_made_at_once_the_later_is_refused() {
    let mut machine = Machine::new(1);
    let base = settings(&machine);
    let replication = Replication { min: 2, max: 3 };
    let factors = |base: Settings| Op::PutSettings {
        settings: Settings {
            replication,
            ..base.clone()
        },
        based_on: Some(base),
    };
    let spread = |base: Settings| Op::PutSettings {
        settings: Settings {
            spread_by: vec!["rack".into()],
            ..base.clone()
        },
        based_on: Some(base),
    };
    assert_eq!(machine.one(factors(base.clone())), OpResult::Done);
    let changed = settings(&machine);
    assert_eq!(changed.replication, replication);
    assert_eq!(refusal(&machine.one(spread(base.clone()))), Some(RefusalKind::Conflict));
    assert_eq!(settings(&machine), changed, "what was acknowledged stays");

    // Made anew of what is there now, it keeps the other.
    assert_eq!(machine.one(spread(changed)), OpResult::Done);
    let both = settings(&machine);
    assert_eq!(
        (both.replication, both.spread_by),
        (replication, vec!["rack".to_owned()])
    );

    // As entries of before: whatever they are.
    let whole = Op::PutSettings {
        settings: base.clone(),
        based_on: None,
    };
    assert_eq!(machine.one(whole), OpResult::Done);
    assert_eq!(settings(&machine), base);
}

/// A log entry that was written before a change could say what it was made of.
#[test]
fn a_change_of_the_settings_without_a_base_is_read_and_written_as_before() {
    let bytes = [
        0x01, 0x12, 0x0a, 0x6a, 0x08, 0x08, 0x04, 0x10, 0x06, 0x1a, 0x02, b'd', b'c',
    ];
    let batch = CommandBatch {
        time: Timestamp::ZERO,
        requests: vec![Request {
            id: None,
            op: Op::PutSettings {
                settings: Settings {
                    replication: Replication { min: 2, max: 3 },
                    spread_by: vec!["dc".into()],
                },
                based_on: None,
            },
        }],
    };
    assert_eq!(CommandBatch::decode(&bytes), Ok(batch.clone()));
    assert_eq!(batch.encode(), bytes);
}
