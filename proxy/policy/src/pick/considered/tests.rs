use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::super::cost::Terms;
use super::super::{Draws, pick};
use super::*;

use LoadBalancer::{LeastCost, LeastRequest, P2c, Random, RoundRobin};

const IN_FLIGHT_MAX: u32 = 10;

fn candidate(standing: Standing, in_flight: u32) -> Candidate {
    Candidate::new(standing, in_flight)
}

fn costing(cost_ms: f64) -> Candidate {
    let terms = Terms { wait_ms: cost_ms, ..Terms::default() };
    let estimate = Estimate { terms, expected_ms: 0.0, age_ms: None, placements: 0, cached_tokens: 0 };
    Candidate { estimate: Some(estimate), ..candidate(Standing::Usable, 0) }
}

/// Endpoint `n` is at port `n`.
fn considered(balancer: LoadBalancer, candidates: &[Candidate], first: f64) -> Considered {
    let draw = |share: f64| (share * 2f64.powi(64)) as u64;
    let draws = Draws { first: draw(first), second: draw(0.99), turn: 0 };
    let picked = pick(balancer, candidates, IN_FLIGHT_MAX, draws);
    let address = |index: usize| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), index as u16);
    Considered::of(balancer, candidates, IN_FLIGHT_MAX, &picked, address)
}

fn ports(considered: &Considered) -> Vec<u16> {
    considered.rows.iter().map(|row| row.address.port()).collect()
}

#[test]
fn costs_are_told_the_chosen_first_and_then_the_cheapest() {
    let costs = [50.0, 10.0, 90.0, 10.1];
    let told = considered(LeastCost, &costs.map(costing), 0.99);
    assert_eq!((ports(&told), told.result), (vec![3, 1, 0, 2], Ok(Reason::LeastCost)));
    let roles: Vec<_> = told.rows.iter().map(|row| row.role).collect();
    assert_eq!(roles, [Role::Chosen, Role::Beside, Role::Beside, Role::Beside]);
    let choice = told.choice.expect("costs decided");
    assert!(choice.is_near() && choice.chance(10.0).is_some_and(|chance| chance > 0.5), "{choice:?}");
}

#[test]
fn a_weight_counts_in_the_order_that_is_told_as_it_does_in_the_pick() {
    let loads = [(0, 1), (2, 1), (50, 100)];
    let weighted = |(in_flight, weight)| Candidate { weight, ..Candidate::new(Standing::Usable, in_flight) };
    let candidates = loads.map(weighted);
    let picked = pick(LeastRequest, &candidates, 1_000, Draws { first: 0, second: 0, turn: 0 });
    let address = |index: usize| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), index as u16);
    assert_eq!(ports(&Considered::of(LeastRequest, &candidates, 1_000, &picked, address)), [2, 0, 1]);
}

#[test]
fn what_kept_each_from_being_chosen_is_told_and_counted() {
    use Standing::{Draining, Ejected, OtherModel, Spare, Tried, Unready, Usable};
    let standings = [
        (OtherModel, 0, State::OtherModel),
        (Draining, 0, State::Draining),
        (Unready, 0, State::Unready),
        (Ejected, 0, State::Ejected),
        (Tried, 0, State::Tried),
        (Spare, 0, State::Spare),
        (Usable, 10, State::Full),
        (Usable, 9, State::Open),
    ];
    let candidates = standings.map(|(standing, in_flight, _)| candidate(standing, in_flight));
    for balancer in [LeastCost, P2c, LeastRequest, RoundRobin, Random] {
        let told = considered(balancer, &candidates, 0.5);
        assert_eq!(told.result, Ok(Reason::Only), "{balancer:?}");
        assert_eq!(ports(&told), [7, 6, 5, 4, 3, 2, 1, 0], "{balancer:?}");
        for row in &told.rows {
            assert_eq!(row.state, standings[usize::from(row.address.port())].2);
        }
        assert_eq!(told.counts, [1; 8]);
    }
}

#[test]
fn where_none_of_its_own_can_be_used_the_spare_ones_are_open() {
    let told = considered(P2c, &[candidate(Standing::Spare, 0), candidate(Standing::Usable, 10)], 0.0);
    assert_eq!((told.count(State::Open), told.count(State::Full), told.count(State::Spare)), (1, 1, 0));
}

#[test]
fn where_nothing_is_chosen_the_reason_and_the_endpoints_are_told() {
    let told = considered(LeastCost, &[candidate(Standing::Tried, 1), candidate(Standing::Draining, 0)], 0.0);
    assert_eq!((told.result, ports(&told)), (Err(NoPick::AllTried), vec![0, 1]));
    let told = considered(Random, &[], 0.0);
    assert_eq!((told.result, ports(&told)), (Err(NoPick::NoEndpoints), vec![]));
}

#[test]
fn of_two_that_were_compared_both_are_told_first() {
    let candidates: Vec<_> =
        (0..20).map(|n| candidate(Standing::Usable, if n == 19 { 1 } else { 2 })).collect();
    // The first draw takes 10 and the second the last.
    let told = considered(P2c, &candidates, 0.52);
    assert_eq!(ports(&told)[..3], [19, 10, 0]);
    assert_eq!((told.rows[0].role, told.rows[1].role), (Role::Chosen, Role::Compared));
}

proptest! {
    #[test]
    fn however_many_there_are_the_first_ones_are_told_and_all_are_counted(
        costs in prop::collection::vec(0.0..1e6f64, 1..300),
        first in 0.0..1.0f64,
    ) {
        let candidates: Vec<_> = costs.iter().map(|cost_ms| costing(*cost_ms)).collect();
        let told = considered(LeastCost, &candidates, first);
        prop_assert_eq!(told.rows.len(), costs.len().min(ROWS_MAX));
        prop_assert_eq!(told.count(State::Open) as usize, costs.len());
        let cost = |row: &Row| costs[usize::from(row.address.port())];
        prop_assert_eq!(told.rows[0].role, Role::Chosen);
        let mut sorted: Vec<_> = (0..costs.len()).filter(|n| *n != usize::from(told.rows[0].address.port())).map(|n| costs[n]).collect();
        sorted.sort_by(f64::total_cmp);
        let told: Vec<_> = told.rows[1..].iter().map(cost).collect();
        prop_assert_eq!(&told, &sorted[..told.len()]);
    }
}
