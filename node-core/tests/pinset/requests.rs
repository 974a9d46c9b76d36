//! Requests that come twice.

use std::time::Duration;

use node_core::RequestId;
use node_core::command::{Op, OpResult, PinOutcome, RefusalKind, Request};
use node_core::pinset;

use super::machine::*;

#[test]
fn the_same_pin_again_changes_nothing() {
    let mut machine = Machine::new(3);
    assert_eq!(
        outcome(&machine.pin(key("", 1, ""), replicas(1, 2))),
        Some(PinOutcome::Created)
    );
    let before = machine.kv.clone();
    machine.time = machine.time.plus(Duration::from_secs(60));
    assert_eq!(
        outcome(&machine.pin(key("", 1, ""), replicas(1, 2))),
        Some(PinOutcome::Unchanged)
    );
    assert_eq!(machine.kv, before);
    assert_eq!(
        outcome(&machine.pin(key("", 1, ""), replicas(1, 1))),
        Some(PinOutcome::Updated)
    );
}

#[test]
fn a_request_is_carried_out_once() {
    let mut machine = Machine::new(2);
    let id = Some(RequestId::new("r-1").expect("valid"));
    let put = machine.put(key("", 1, ""), replicas(1, 1));
    let request = Request { id, op: put };
    let (first, _) = machine.apply(vec![request.clone()]);
    machine.one(Op::RemovePin { key: key("", 1, "") });
    let (again, effects) = machine.apply(vec![request.clone(), request]);
    assert_eq!([first[0].clone(), first[0].clone()], again[..]);
    assert!(effects.touched.is_empty());
    assert_eq!(
        pinset::pin(&machine.kv, &key("", 1, "")),
        Ok(None),
        "the repetition did not pin it again"
    );
}

#[test]
fn a_request_id_is_forgotten_after_its_time() {
    let mut machine = Machine::new(2);
    let request = |machine: &Machine| Request {
        id: Some(RequestId::new("r-1").expect("valid")),
        op: machine.put(key("", 1, ""), replicas(1, 1)),
    };
    let first = request(&machine);
    machine.apply(vec![first]);
    machine.time = machine.time.plus(pinset::REQUESTS_KEPT_FOR + Duration::from_millis(1));
    machine.one(Op::RemovePin { key: key("", 1, "") });
    let later = request(&machine);
    let (results, _) = machine.apply(vec![later]);
    assert_eq!(outcome(&results[0]), Some(PinOutcome::Created));
}

#[test]
fn a_request_id_is_not_taken_for_another_request() {
    let mut machine = Machine::new(2);
    let id = Some(RequestId::new("once").expect("valid"));
    let first = Request {
        id: id.clone(),
        op: machine.put(key("", 1, ""), replicas(1, 1)),
    };
    let other = Request {
        id,
        op: machine.put(key("", 2, ""), replicas(1, 1)),
    };
    let (results, _) = machine.apply(vec![first.clone(), other, first]);
    assert!(matches!(&results[0], OpResult::Pinned(pinned) if pinned.outcome == PinOutcome::Created));
    assert_eq!(refusal(&results[1]), Some(RefusalKind::Invalid), "{:?}", results[1]);
    assert_eq!(results[2], results[0], "the first answer is given again");
    assert!(pinset::pin(&machine.kv, &key("", 2, "")).expect("memory").is_none());
}
