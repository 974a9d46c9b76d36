//! Credentials in the replicated state: made once, found by name and ID, gone when revoked; and what older logs hold.

use std::collections::BTreeMap;
use std::time::Duration;

use node_core::command::{CommandBatch, Op, OpResult, RefusalKind, Request};
use node_core::pinset::{self, Effects, MemoryKv, check_invariants};
use node_core::{CREDENTIALS_MAX, Credential, CredentialId, Namespace, Scope, SecretHash, SigningKey, Timestamp};
use proptest::prelude::*;

const PASSWORD: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$aGFzaA";

fn id(number: u16) -> CredentialId {
    let [high, low] = number.to_be_bytes();
    CredentialId::from_bytes([0, 0, 0, high, low])
}

fn credential(number: u16, name: &str) -> Credential {
    let secret = if number.is_multiple_of(2) {
        SecretHash::Token([number.to_be_bytes()[1]; 32])
    } else {
        SecretHash::Password(PASSWORD.into())
    };
    Credential {
        id: id(number),
        name: name.into(),
        secret,
        namespace: Namespace::new("team-a").expect("valid"),
        scope: Scope::ALL[usize::from(number % 3)],
        signing_key: SigningKey([number.to_be_bytes()[1]; 32]),
        created: Timestamp::ZERO,
        expires: None,
    }
}

struct Machine {
    kv: MemoryKv,
    index: u64,
    time: Timestamp,
    log: Vec<Vec<u8>>,
}

impl Machine {
    fn new() -> Self {
        Self {
            kv: MemoryKv::default(),
            index: 0,
            time: Timestamp::from_millis(1_000_000),
            log: Vec::new(),
        }
    }

    /// Applies what comes out of the log, as every peer does.
    fn apply(&mut self, ops: Vec<Op>) -> (Vec<OpResult>, Effects) {
        self.index += 1;
        let requests = ops.into_iter().map(|op| Request { id: None, op }).collect();
        let bytes = CommandBatch {
            time: self.time,
            requests,
        }
        .encode();
        let batch = CommandBatch::decode(&bytes).expect("just encoded");
        self.log.push(bytes);
        let mut effects = Effects::default();
        let results = pinset::apply(&mut self.kv, self.index, &batch, &mut effects).expect("a store in memory");
        check_invariants(&self.kv).expect("holds");
        (results, effects)
    }

    fn one(&mut self, op: Op) -> OpResult {
        self.apply(vec![op]).0.remove(0)
    }

    fn create(&mut self, credential: Credential) -> OpResult {
        self.one(create(credential))
    }
}

fn create(credential: Credential) -> Op {
    Op::CreateCredential {
        credential: Box::new(credential),
    }
}

fn kind(result: &OpResult) -> Option<RefusalKind> {
    match result {
        OpResult::Refused(refusal) => Some(refusal.kind),
        _ => None,
    }
}

#[test]
fn what_was_made_is_found_until_it_is_revoked() {
    let mut machine = Machine::new();
    let wanted = Credential {
        expires: Some(machine.time.plus(Duration::from_secs(60))),
        created: Timestamp::from_millis(7),
        ..credential(1, "alice")
    };
    let (results, effects) = machine.apply(vec![create(wanted.clone())]);
    assert_eq!(results, [OpResult::Done]);
    assert!(effects.credentials_changed);
    let made = Credential {
        created: machine.time,
        ..wanted
    };
    assert_eq!(pinset::credential(&machine.kv, &id(1)), Ok(Some(made.clone())));
    assert_eq!(pinset::credential_named(&machine.kv, "alice"), Ok(Some(made.clone())));
    assert_eq!(pinset::credentials(&machine.kv), Ok(vec![made]));
    assert_eq!(pinset::credential_named(&machine.kv, "Alice"), Ok(None));

    let revoke = Op::RevokeCredential { id: id(1) };
    let (results, effects) = machine.apply(vec![revoke.clone()]);
    assert_eq!(results, [OpResult::Done]);
    assert!(effects.credentials_changed);
    assert_eq!(pinset::credential(&machine.kv, &id(1)), Ok(None));
    assert_eq!(pinset::credential_named(&machine.kv, "alice"), Ok(None));
    let (results, effects) = machine.apply(vec![revoke]);
    assert_eq!(kind(&results[0]), Some(RefusalKind::NotFound));
    assert!(!effects.credentials_changed);
}

#[test]
fn names_and_ids_belong_to_one_and_values_have_rules() {
    let mut machine = Machine::new();
    machine.create(credential(1, "alice"));
    let before = machine.kv.clone();
    let past = Credential {
        expires: Some(machine.time),
        ..credential(4, "dave")
    };
    let hash = |hash: &str| Credential {
        secret: SecretHash::Password(hash.into()),
        ..credential(4, "dave")
    };
    for (wanted, expected, word) in [
        (
            credential(2, "alice"),
            RefusalKind::AlreadyExists,
            "revoke that one first",
        ),
        (credential(1, "bob"), RefusalKind::Conflict, "choose another"),
        (credential(4, "a b"), RefusalKind::Invalid, "name \"a b\""),
        (past, RefusalKind::Invalid, "in the future"),
        (hash("plain"), RefusalKind::Invalid, "$argon2id$"),
        (
            hash(&format!("$argon2id${}", "x".repeat(256))),
            RefusalKind::Invalid,
            "256",
        ),
    ] {
        let result = machine.create(wanted);
        assert_eq!(kind(&result), Some(expected), "{result:?}");
        let OpResult::Refused(refusal) = result else {
            unreachable!()
        };
        assert!(refusal.message.contains(word), "{word} is not in {refusal}");
        assert!(machine.kv == before, "a refusal leaves no trace");
    }
}

#[test]
fn an_expired_one_gives_its_name_away() {
    let mut machine = Machine::new();
    machine.create(Credential {
        expires: Some(machine.time.plus(Duration::from_secs(1))),
        ..credential(1, "alice")
    });
    machine.time = machine.time.plus(Duration::from_secs(1));
    // Still listed, so that whoever is refused finds out why.
    assert_eq!(pinset::credentials(&machine.kv).expect("memory").len(), 1);
    assert_eq!(machine.create(credential(2, "alice")), OpResult::Done);
    assert_eq!(pinset::credential(&machine.kv, &id(1)), Ok(None));
    let now = pinset::credential_named(&machine.kv, "alice").expect("memory");
    assert_eq!(now.map(|credential| credential.id), Some(id(2)));
}

#[test]
fn there_is_a_most_and_expired_ones_make_room() {
    let mut machine = Machine::new();
    let soon = machine.time.plus(Duration::from_secs(1));
    let many = u16::try_from(CREDENTIALS_MAX).expect("fits");
    let ops = (0..many).map(|number| {
        create(Credential {
            expires: (number < 2).then_some(soon),
            ..credential(number, &format!("user-{number}"))
        })
    });
    let (results, _) = machine.apply(ops.collect());
    assert!(results.iter().all(|result| *result == OpResult::Done));
    let full = machine.create(credential(many, "late"));
    assert_eq!(kind(&full), Some(RefusalKind::Precondition), "{full:?}");
    machine.time = soon;
    assert_eq!(machine.create(credential(many, "late")), OpResult::Done);
    let header = pinset::header(&machine.kv).expect("memory");
    assert_eq!(header.credentials, CREDENTIALS_MAX - 1, "both expired ones went");
}

/// The bytes are written out: a log of before there were credentials must always be read.
#[test]
fn logs_of_before_are_read_and_unknown_operations_are_refused() {
    // Form 1; time 1,000; one request: let 7 pins expire.
    let old = [0x01, 0x08, 0xe8, 0x07, 0x12, 0x02, 0x28, 0x07];
    let batch = CommandBatch::decode(&old).expect("it was written by an earlier version");
    assert_eq!(batch.time, Timestamp::from_millis(1_000));
    assert_eq!(batch.requests[0].op, Op::Expire { limit: 7 });
    assert_eq!(batch.encode(), old);
    // One request with field 18, which is not ours.
    let unknown = [0x01, 0x12, 0x03, 0x92, 0x01, 0x00];
    let error = CommandBatch::decode(&unknown).expect_err("it is not understood");
    assert!(error.to_string().contains("run the newer version"), "{error}");
}

#[derive(Debug, Clone)]
enum Step {
    Create { id: u16, name: u8, seconds: Option<u64> },
    Revoke { id: u16 },
    Wait { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..8u16, 0..5u8, prop::option::of(0..20u64))
            .prop_map(|(id, name, seconds)| Step::Create { id, name, seconds }),
        2 => (0..8u16).prop_map(|id| Step::Revoke { id }),
        1 => (1..15u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

proptest! {
    /// Whatever is made and revoked, the state holds what a map by name would, and every peer has the same rows.
    #[test]
    fn the_state_is_that_of_a_map(steps in prop::collection::vec(step(), 1..60)) {
        let mut machine = Machine::new();
        let mut model: BTreeMap<String, Credential> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Wait { seconds } => machine.time = machine.time.plus(Duration::from_secs(seconds)),
                Step::Revoke { id: number } => {
                    let result = machine.one(Op::RevokeCredential { id: id(number) });
                    let before = model.len();
                    model.retain(|_, credential| credential.id != id(number));
                    prop_assert_eq!(result == OpResult::Done, model.len() < before);
                }
                Step::Create { id: number, name, seconds } => {
                    let name = format!("user-{name}");
                    let wanted = Credential {
                        expires: seconds.map(|seconds| machine.time.plus(Duration::from_secs(seconds))),
                        ..credential(number, &name)
                    };
                    let result = machine.create(wanted.clone());
                    let now = machine.time;
                    let free = model.get(&name).is_none_or(|other| other.is_expired(now));
                    let fresh = model.values().all(|other| other.id != wanted.id);
                    let good = free && fresh && !wanted.is_expired(now);
                    prop_assert_eq!(result == OpResult::Done, good);
                    if good {
                        model.insert(name, Credential { created: now, ..wanted });
                    }
                }
            }
            let mut expected: Vec<_> = model.values().cloned().collect();
            expected.sort_by(|a, b| a.id.cmp(&b.id));
            prop_assert_eq!(pinset::credentials(&machine.kv).expect("memory"), expected);
        }
        let mut replica = MemoryKv::default();
        for (at, bytes) in machine.log.iter().enumerate() {
            let batch = CommandBatch::decode(bytes).expect("just encoded");
            pinset::apply(&mut replica, at as u64 + 1, &batch, &mut Effects::default()).expect("memory");
        }
        prop_assert!(replica == machine.kv, "a replica differs");
    }
}
