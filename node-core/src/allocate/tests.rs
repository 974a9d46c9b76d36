use proptest::prelude::*;

use super::*;

fn cid(number: u32) -> Cid {
    let mut bytes = vec![0x01, 0x55, 0x12, 0x20];
    let mut digest = [0; 32];
    digest[..4].copy_from_slice(&number.to_be_bytes());
    bytes.extend(digest);
    Cid::from_bytes(&bytes).expect("valid")
}

fn node(id: u32, zone: &str) -> Candidate {
    Candidate {
        id: NodeId(id),
        name: format!("node-{id}"),
        state: NodeState::Active,
        tags: BTreeMap::from([("zone".into(), zone.into())]),
        weight: 1.0,
        reachable: Some(true),
        free_bytes: Some(100 << 30),
        total_bytes: Some(200 << 30),
        queued: 0,
        pin_bytes: None,
        reserved_pins: 0,
    }
}

struct Ask {
    cid: Cid,
    min: i32,
    max: i32,
    current: Vec<NodeId>,
    preferred: Vec<NodeId>,
    spread_by: Vec<String>,
}

impl Ask {
    fn new(number: u32, min: i32, max: i32) -> Self {
        let spread_by = vec!["zone".into()];
        Self {
            cid: cid(number),
            min,
            max,
            current: Vec::new(),
            preferred: Vec::new(),
            spread_by,
        }
    }

    fn request(&self) -> Request<'_> {
        Request {
            cid: &self.cid,
            min: self.min,
            max: self.max,
            current: &self.current,
            preferred: &self.preferred,
            spread_by: &self.spread_by,
        }
    }

    fn of(&self, candidates: &[Candidate]) -> Result<Plan, NotPlaceable> {
        Fleet::new(candidates.to_vec(), Policy::default()).allocate(&self.request())
    }
}

#[test]
fn a_refusal_names_who_refused_and_why() {
    let mut nodes = vec![node(1, "a"), node(2, "b"), node(3, "c")];
    nodes[0].state = NodeState::Cordoned;
    nodes[1].free_bytes = Some(1 << 30);
    nodes[2].reachable = Some(false);
    let refused = Ask::new(1, 1, 2).of(&nodes).expect_err("refused").to_string();
    for part in [
        "1 storage nodes",
        "node-1: it is cordoned",
        "node-2: it is full",
        "node-3: it is not reachable",
    ] {
        assert!(refused.contains(part), "{refused}");
    }
}

#[test]
fn a_new_leader_places_on_nodes_it_has_not_heard_of() {
    let mut nodes = vec![node(1, "a"), node(2, "b")];
    for node in &mut nodes {
        (node.reachable, node.free_bytes, node.total_bytes) = (None, None, None);
    }
    assert_eq!(Ask::new(1, 2, 2).of(&nodes).expect("placed").nodes.len(), 2);
    nodes[1].reachable = Some(true);
    assert_eq!(Ask::new(1, 1, 1).of(&nodes).expect("placed").nodes, [NodeId(2)]);
}

#[test]
fn who_holds_it_keeps_it_and_who_drains_does_not() {
    let mut nodes = vec![node(1, "a"), node(2, "b"), node(3, "c")];
    nodes[0].state = NodeState::Cordoned;
    nodes[1].state = NodeState::Draining;
    let mut ask = Ask::new(1, 2, 2);
    ask.current = vec![NodeId(1), NodeId(2)];
    assert_eq!(ask.of(&nodes).expect("placed").nodes, [NodeId(1), NodeId(3)]);
}

#[test]
fn survivors_count_for_the_spread() {
    let nodes = [node(1, "a"), node(2, "a"), node(3, "a"), node(4, "b")];
    for number in 0..50 {
        let mut ask = Ask::new(number, 2, 2);
        ask.current = vec![NodeId(1)];
        assert_eq!(ask.of(&nodes).expect("placed").nodes, [NodeId(1), NodeId(4)]);
    }
}

#[test]
fn a_smaller_factor_drops_who_is_missed_least() {
    let nodes = [node(1, "a"), node(2, "a"), node(3, "b")];
    for number in 0..50 {
        let mut ask = Ask::new(number, 2, 2);
        ask.current = vec![NodeId(1), NodeId(2), NodeId(3)];
        assert!(ask.of(&nodes).expect("placed").nodes.contains(&NodeId(3)));
    }
}

#[test]
fn shares_follow_space_and_weight() {
    let mut nodes = [node(1, "a"), node(2, "a"), node(3, "a")];
    nodes[1].weight = 2.0;
    nodes[2].free_bytes = Some(50 << 30);
    let fleet = Fleet::new(nodes.to_vec(), Policy::default());
    let mut counts = [0; 4];
    for number in 0..7_000 {
        let plan = fleet.allocate(&Ask::new(number, 1, 1).request()).expect("placed");
        counts[plan.nodes[0].0 as usize] += 1;
    }
    // In proportion 2 : 4 : 1.
    assert!((1_800..2_200).contains(&counts[1]), "{counts:?}");
    assert!((3_800..4_200).contains(&counts[2]), "{counts:?}");
    assert!((850..1_150).contains(&counts[3]), "{counts:?}");
}

#[test]
fn a_burst_stops_at_what_is_reserved() {
    let mut nodes = [node(1, "a"), node(2, "a")];
    for node in &mut nodes {
        (node.free_bytes, node.total_bytes) = (Some(100 << 20), Some(200 << 20));
        node.pin_bytes = Some(1 << 20);
    }
    let mut fleet = Fleet::new(nodes.to_vec(), Policy::default());
    let mut placed = 0;
    for number in 0..1_000 {
        let ask = Ask::new(number, 1, 1);
        let Ok(plan) = fleet.allocate(&ask.request()) else {
            break;
        };
        fleet.reserve(plan.nodes[0], 1);
        placed += 1;
    }
    // Each has 100 MiB free and keeps 5 % of 200 MiB.
    assert_eq!(placed, 2 * 91);
}

#[test]
fn pins_of_unknown_size_are_not_refused_for_a_guess() {
    let mut small = node(1, "a");
    (small.free_bytes, small.total_bytes) = (Some(9 << 30), Some(10 << 30));
    (small.queued, small.reserved_pins) = (100_000, 50_000);
    assert!(Ask::new(1, 1, 1).of(std::slice::from_ref(&small)).is_ok());
    // Once their size is known, what waits counts.
    small.pin_bytes = pin_bytes(1 << 30, 4_096);
    let refused = Ask::new(1, 1, 1).of(&[small]).expect_err("refused").to_string();
    assert!(refused.contains("it will be full"), "{refused}");
    assert_eq!(pin_bytes(1 << 30, 99), None);
}

#[test]
fn whom_the_user_chose_comes_before_who_holds_it() {
    let nodes = [node(1, "a"), node(2, "b"), node(3, "c")];
    let mut ask = Ask::new(1, 2, 2);
    ask.current = vec![NodeId(1), NodeId(2)];
    ask.preferred = vec![NodeId(3)];
    let plan = ask.of(&nodes).expect("placed");
    assert!(plan.nodes.contains(&NodeId(3)) && plan.nodes.len() == 2, "{plan:?}");
    // Not if it can't take it.
    let mut cordoned = nodes;
    cordoned[2].state = NodeState::Cordoned;
    assert_eq!(ask.of(&cordoned).expect("placed").nodes, [NodeId(1), NodeId(2)]);
}

#[test]
fn nobody_lets_go_before_the_others_hold_it() {
    let ids = |ids: &[u32]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
    let (current, planned) = (ids(&[1, 2]), ids(&[2, 3]));
    let pass = |held: &[u32], silent: &[u32]| {
        hand_over(&current, &planned, |id| {
            (!silent.contains(&id.0)).then(|| held.contains(&id.0))
        })
    };
    assert_eq!(pass(&[1, 2], &[]), ids(&[1, 2, 3]), "the new one has not fetched it");
    assert_eq!(pass(&[1, 2, 3], &[]), ids(&[2, 3]));
    assert_eq!(pass(&[2], &[]), ids(&[2, 3]), "who leaves holds nothing");
    assert_eq!(
        pass(&[2], &[1]),
        ids(&[1, 2, 3]),
        "who leaves may hold the only good copy"
    );
    assert_eq!(pass(&[1, 2], &[3]), ids(&[1, 2, 3]));
    assert_eq!(
        hand_over(&current, &[], |_| Some(true)),
        current,
        "there is no room elsewhere"
    );
}

#[test]
fn the_explanation_agrees_with_the_choice() {
    let mut nodes = vec![node(1, "a"), node(2, "b"), node(3, "c"), node(4, "d")];
    nodes[3].state = NodeState::Draining;
    let mut ask = Ask::new(1, 2, 2);
    ask.preferred = vec![NodeId(3)];
    let plan = ask.of(&nodes).expect("placed");
    let verdicts = explain(&ask.request(), &nodes, &Policy::default());
    let mut chosen: Vec<_> = verdicts.iter().filter(|one| one.chosen).map(|one| one.node).collect();
    chosen.sort_unstable();
    assert_eq!(chosen, plan.nodes);
    assert_eq!(verdicts[0].reason, "the user chose it");
    assert_eq!((verdicts[3].rank, verdicts[3].reason.as_str()), (0, "it is draining"));
}

fn any_node(id: u32) -> impl Strategy<Value = Candidate> {
    let reachable = prop_oneof![Just(None), Just(Some(true)), Just(Some(false))];
    (0..4usize, "[ab]", reachable, 0..200u64, 0.1..5.0f64).prop_map(move |(state, zone, reachable, free, weight)| {
        Candidate {
            state: NodeState::ALL[state],
            reachable,
            free_bytes: Some(free << 30),
            weight,
            ..node(id, &zone)
        }
    })
}

proptest! {
    #[test]
    fn choices_keep_their_rules(
        nodes in (1..8u32).prop_flat_map(|count| (1..=count).map(any_node).collect::<Vec<_>>()),
        number in any::<u32>(), min in 0..4i32, more in 0..3i32,
        current in prop::collection::vec(1..8u32, 0..4), rotate in 0..8usize,
        preferred in prop::collection::vec(1..8u32, 0..3),
    ) {
        let mut ask = Ask::new(number, min, min + more);
        ask.current = current.into_iter().map(NodeId).collect();
        ask.preferred = preferred.into_iter().map(NodeId).collect();
        let plan = ask.of(&nodes);
        // The order of the candidates does not matter.
        let mut turned = nodes.clone();
        turned.rotate_left(rotate % nodes.len());
        prop_assert_eq!(&plan, &ask.of(&turned));

        let fleet = Fleet::new(nodes.clone(), Policy::default());
        let by_id = |id: &NodeId| nodes.iter().find(|node| node.id == *id);
        let kept = |id: &NodeId| ask.current.contains(id) && by_id(id).is_some_and(keeps);
        let takes = |id: &NodeId| by_id(id).is_some_and(|node| fleet.refuses(node).is_none());
        let possible = nodes.iter().filter(|node| kept(&node.id) || takes(&node.id)).count();
        match plan {
            Ok(plan) => {
                prop_assert_eq!(plan.nodes.len(), possible.min((min + more) as usize));
                prop_assert!(plan.nodes.iter().all(|id| kept(id) || takes(id)));
                // As many of the user's as there is room for, unless they are down and others are not.
                let asked: Vec<_> = ask.preferred.iter().filter(|id| takes(id)).collect();
                let asked = asked.into_iter().collect::<std::collections::BTreeSet<_>>();
                let used = plan.nodes.iter().filter(|id| asked.contains(id)).count();
                prop_assert_eq!(used, asked.len().min((min + more) as usize));
                // The explanation agrees with the choice.
                let verdicts = explain(&ask.request(), &nodes, &Policy::default());
                let mut said: Vec<_> = verdicts.iter().filter(|one| one.chosen).map(|one| one.node).collect();
                said.sort_unstable();
                prop_assert_eq!(&said, &plan.nodes);
                // Nobody moves who could stay.
                if !asked.is_empty() {
                    return Ok(());
                }
                let staying = ask.current.iter().filter(|id| kept(id)).collect::<std::collections::BTreeSet<_>>();
                let stayed = plan.nodes.iter().filter(|id| staying.contains(id)).count();
                prop_assert_eq!(stayed, staying.len().min((min + more) as usize));
            }
            Err(refused) => {
                prop_assert_eq!(refused.available, possible);
                prop_assert!(possible < min as usize);
            }
        }
    }
}
