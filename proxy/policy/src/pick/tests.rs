use proptest::prelude::*;

use super::*;

use LoadBalancer::{ConsistentHash, LeastCost, LeastRequest, P2c, Random, RoundRobin};
use Standing::{Ejected, OtherModel, Spare, Tried, Unready, Usable};

const IN_FLIGHT_MAX: u32 = 10;

fn draws(first: f64, second: f64, turn: u64) -> Draws {
    let whole = 2f64.powi(64);
    Draws { first: (first * whole) as u64, second: (second * whole) as u64, turn }
}

fn usable(in_flight: &[u32]) -> Vec<Candidate> {
    in_flight.iter().map(|&in_flight| candidate(Usable, in_flight)).collect()
}

fn candidate(standing: Standing, in_flight: u32) -> Candidate {
    Candidate::new(standing, in_flight)
}

fn costing(first_token_ms: f64, others_ms: f64, expected_ms: f64) -> Candidate {
    let terms = Terms { wait_ms: first_token_ms, others_ms, ..Terms::default() };
    let estimate = Some(Estimate { terms, expected_ms, age_ms: Some(0.0), placements: 0, cached_tokens: 0 });
    Candidate { estimate, ..candidate(Usable, 0) }
}

const ALL: [LoadBalancer; 6] = [LeastCost, P2c, LeastRequest, RoundRobin, Random, ConsistentHash];

fn check(
    balancer: LoadBalancer,
    candidates: &[(Standing, u32)],
    draws: Draws,
    expected: Result<(usize, Reason), NoPick>,
) {
    let candidates: Vec<_> =
        candidates.iter().map(|&(standing, in_flight)| candidate(standing, in_flight)).collect();
    let picked = pick(balancer, &candidates, IN_FLIGHT_MAX, draws).map(|pick| (pick.index, pick.reason));
    assert_eq!(picked, expected, "{balancer:?} {candidates:?} {draws:?}");
}

#[test]
fn the_reason_for_picking_nothing_names_what_would_help() {
    for balancer in ALL {
        let none = |candidates: &[_], why| check(balancer, candidates, draws(0.5, 0.5, 7), Err(why));
        none(&[], NoPick::NoEndpoints);
        none(&[(Ejected, 0)], NoPick::NoEndpoints);
        none(&[(Unready, 0), (Unready, 0)], NoPick::NoEndpoints);
        none(&[(Unready, 0), (Tried, 0)], NoPick::AllTried);
        none(&[(Ejected, 0), (Tried, 0)], NoPick::AllTried);
        none(&[(Tried, 0), (Usable, 10)], NoPick::AllFull);
        none(&[(Usable, 11), (Usable, 10)], NoPick::AllFull);
        none(&[(OtherModel, 0), (Unready, 0)], NoPick::NoModel);
        none(&[(OtherModel, 0), (Tried, 0)], NoPick::AllTried);
    }
}

#[test]
fn a_spare_one_is_chosen_where_no_other_can_be() {
    for balancer in ALL {
        let candidates = [(Spare, 0), (Usable, 9), (Spare, 0)];
        check(balancer, &candidates, draws(0.9, 0.9, 0), Ok((1, Reason::Only)));
        let candidates = [(Spare, 3), (Usable, 10), (Tried, 0)];
        check(balancer, &candidates, draws(0.9, 0.9, 0), Ok((0, Reason::Only)));
        let candidates = [(Spare, 10), (Usable, 10)];
        check(balancer, &candidates, draws(0.9, 0.9, 0), Err(NoPick::AllFull));
    }
}

#[test]
fn spare_ones_are_asked_for_their_cost_only_where_the_others_have_no_room() {
    for (standings, expected) in [
        ([(Spare, 0), (Usable, 9)], Usable),
        ([(Spare, 0), (Usable, 10)], Spare),
        ([(Spare, 0), (Unready, 0)], Spare),
    ] {
        let candidates = standings.map(|(standing, in_flight)| Candidate::new(standing, in_flight));
        assert_eq!(among(&candidates, 10), expected, "{standings:?}");
    }
}

#[test]
fn the_only_one_that_can_be_chosen_is() {
    for balancer in ALL {
        for turn in 0..3 {
            let candidates = [(Usable, 10), (Ejected, 0), (Usable, 9), (Tried, 0), (Unready, 0)];
            check(balancer, &candidates, draws(0.9, 0.9, turn), Ok((2, Reason::Only)));
        }
    }
}

#[test]
fn up_to_four_the_least_loaded_of_all_is_chosen() {
    let candidates = [(Usable, 3), (Usable, 2), (Usable, 1), (Ejected, 0), (Usable, 3)];
    for first in [0.0, 0.5, 0.99] {
        check(P2c, &candidates, draws(first, 0.0, 0), Ok((2, Reason::LeastLoad)));
    }
}

#[test]
fn a_tie_among_few_is_drawn() {
    let candidates = [(Usable, 1), (Usable, 2), (Usable, 1), (Usable, 1)];
    for (first, index) in [(0.0, 0), (0.32, 0), (0.34, 2), (0.65, 2), (0.67, 3), (0.99, 3)] {
        check(P2c, &candidates, draws(first, 0.0, 0), Ok((index, Reason::LeastLoad)));
    }
}

#[test]
fn among_many_the_less_loaded_of_two_is_chosen() {
    let candidates = [(Usable, 5), (Usable, 4), (Usable, 3), (Usable, 2), (Ejected, 0), (Usable, 1)];
    // Five are open. The second draw is among the four others.
    for (first, second, index) in [
        (0.0, 0.0, 1),   // 5 against 4
        (0.0, 0.99, 5),  // 5 against 1
        (0.99, 0.0, 5),  // 1 against 5
        (0.25, 0.3, 2),  // 4 against 3: the second draw skips the first's place
        (0.25, 0.2, 1),  // 4 against 5
        (0.79, 0.99, 5), // 2 against 1
    ] {
        check(P2c, &candidates, draws(first, second, 0), Ok((index, Reason::LeastLoad)));
    }
}

#[test]
fn the_least_requests_of_all_are_chosen_however_many_endpoints_there_are() {
    let candidates: Vec<_> = (0..9).map(|n| (Usable, if n == 6 { 1 } else { 2 })).collect();
    for first in [0.0, 0.5, 0.99] {
        check(LeastRequest, &candidates, draws(first, 0.3, 0), Ok((6, Reason::LeastLoad)));
    }
}

#[test]
fn a_lot_is_drawn_over_what_can_be_chosen() {
    let candidates = [(Usable, 0), (Ejected, 0), (Usable, 9), (Usable, 10), (Usable, 0)];
    for (first, index) in [(0.0, 0), (0.34, 2), (0.67, 4), (0.99, 4)] {
        check(Random, &candidates, draws(first, 0.0, 0), Ok((index, Reason::Lot)));
    }
}

#[test]
fn the_cost_to_everybody_decides_and_what_was_believed_is_told() {
    // The second answers soonest, and would take most from those who are there.
    let candidates = [costing(100.0, 100.0, 0.0), costing(50.0, 300.0, 0.0), costing(120.0, 90.0, 0.0)];
    let picked = pick(LeastCost, &candidates, IN_FLIGHT_MAX, draws(0.5, 0.5, 0)).unwrap();
    assert_eq!((picked.index, picked.reason), (0, Reason::LeastCost));
    let believed = picked.believed.unwrap();
    assert_eq!((believed.terms.first_token_ms(), believed.next_best_ms), (100.0, 50.0));
}

#[test]
fn where_others_have_placed_meanwhile_costs_are_levelled() {
    let candidates = [costing(0.0, 0.0, 60.0), costing(10.0, 0.0, 0.0), costing(50.0, 0.0, 0.0)];
    let index = |first| pick(LeastCost, &candidates, IN_FLIGHT_MAX, draws(first, 0.5, 0)).unwrap().index;
    // 60 ms fill up to 35: shares 35 and 25.
    assert_eq!([index(0.1), index(0.58), index(0.59), index(0.99)], [0, 0, 1, 1]);
}

#[test]
fn where_an_endpoint_tells_nothing_outstanding_tokens_decide() {
    let with = |tokens_in_flight| Candidate { tokens_in_flight, ..candidate(Usable, 1) };
    let mut candidates = vec![costing(0.0, 0.0, 0.0), with(5_000), with(200), with(9_000)];
    candidates[0].tokens_in_flight = 700;
    let picked = pick(LeastCost, &candidates, IN_FLIGHT_MAX, draws(0.5, 0.5, 0)).unwrap();
    assert_eq!((picked.index, picked.reason, picked.believed), (2, Reason::LeastLoad, None));
}

#[test]
fn the_only_one_left_has_nothing_better_beside_it() {
    let candidates = [costing(5.0, 0.0, 0.0), Candidate { standing: Tried, ..costing(1.0, 0.0, 0.0) }];
    let picked = pick(LeastCost, &candidates, IN_FLIGHT_MAX, draws(0.5, 0.5, 0)).unwrap();
    assert_eq!((picked.index, picked.reason), (0, Reason::Only));
    assert_eq!(picked.believed.map(|believed| believed.next_best_ms), Some(f64::INFINITY));
}

#[test]
fn turns_go_round_over_what_can_be_chosen() {
    let candidates = [(Usable, 0), (Ejected, 0), (Usable, 9), (Usable, 10), (Usable, 0)];
    for (turn, index) in [(0, 0), (1, 2), (2, 4), (3, 0), (u64::MAX, 0)] {
        check(RoundRobin, &candidates, draws(0.7, 0.7, turn), Ok((index, Reason::Turn)));
    }
}

fn weighing(weights: &[u32], in_flight: &[u32]) -> Vec<Candidate> {
    let both = weights.iter().zip(in_flight);
    both.map(|(&weight, &in_flight)| Candidate { weight, ..candidate(Usable, in_flight) }).collect()
}

#[test]
fn load_is_compared_for_each_unit_of_weight() {
    // With the next request: 4 of 2, 3 of 1, 5 of 3.
    let candidates = weighing(&[2, 1, 3], &[3, 2, 4]);
    for balancer in [P2c, LeastRequest, LeastCost] {
        let picked = pick(balancer, &candidates, IN_FLIGHT_MAX, draws(0.5, 0.5, 0)).unwrap();
        assert_eq!(picked.index, 2, "{balancer:?}");
    }
}

#[test]
fn turns_and_lots_are_shared_by_weight() {
    let candidates = weighing(&[4, 2, 6], &[0, 0, 0]);
    let turn = |n| pick(RoundRobin, &candidates, IN_FLIGHT_MAX, draws(0.0, 0.0, n)).unwrap().index;
    let turns: Vec<_> = (0..600).map(turn).collect();
    let lot = |n: u32| {
        let draws = draws((f64::from(n) + 0.5) / 600.0, 0.0, 0);
        pick(Random, &candidates, IN_FLIGHT_MAX, draws).unwrap().index
    };
    let lots: Vec<_> = (0..600).map(lot).collect();
    let shares = |picked: &[usize]| [0, 1, 2].map(|index| picked.iter().filter(|one| **one == index).count());
    assert_eq!(shares(&lots), [200, 100, 300]);
    for sixty in turns.chunks(60) {
        let shares = shares(sixty);
        assert!(
            [20, 10, 30].iter().zip(shares).all(|(mean, share)| share.abs_diff(*mean) <= 2),
            "{shares:?}"
        );
    }
    assert!(!turns.windows(3).any(|three| three.iter().all(|one| *one == three[0])), "{turns:?}");
}

#[test]
fn a_weight_makes_the_cost_count_for_less() {
    let half = |candidate| Candidate { weight: 2, ..candidate };
    let candidates = [costing(100.0, 0.0, 0.0), half(costing(180.0, 0.0, 0.0)), costing(120.0, 0.0, 0.0)];
    let picked = pick(LeastCost, &candidates, IN_FLIGHT_MAX, draws(0.5, 0.5, 0)).unwrap();
    assert_eq!(picked.index, 1);
    assert_eq!(picked.believed.map(|believed| believed.terms.first_token_ms()), Some(180.0));
}

#[test]
fn what_no_load_tells_is_added_to_the_cost_and_not_to_what_is_believed() {
    let far = Candidate { handicap_ms: 150.0, ..costing(10.0, 0.0, 0.0) };
    let index = |near_ms| {
        let candidates = [far, costing(near_ms, 0.0, 0.0)];
        pick(LeastCost, &candidates, IN_FLIGHT_MAX, draws(0.5, 0.5, 0)).unwrap()
    };
    assert_eq!((index(150.0).index, index(170.0).index), (1, 0));
    assert_eq!(index(170.0).believed.map(|believed| believed.terms.first_token_ms()), Some(10.0));
}

fn ranked(candidates: &[Candidate], ranks: &[f64]) -> Vec<Candidate> {
    let ranked = candidates.iter().zip(ranks);
    ranked.map(|(candidate, rank)| Candidate { rank: Some(*rank), ..*candidate }).collect()
}

#[test]
fn a_session_stays_at_its_home_until_that_has_more_than_its_share() {
    for balancer in [P2c, LeastRequest, RoundRobin, Random, ConsistentHash, LeastCost] {
        let index = |in_flight: &[u32]| {
            let candidates = ranked(&usable(in_flight), &[0.1, 3.0, 0.7, 0.2]);
            let picked = pick(balancer, &candidates, IN_FLIGHT_MAX, draws(0.9, 0.9, 3)).unwrap();
            assert_eq!(picked.reason, Reason::Affinity, "{balancer:?}");
            picked.index
        };
        assert_eq!(index(&[0, 0, 0, 0]), 1, "{balancer:?}");
        assert_eq!(index(&[0, 3, 0, 0]), 1, "few are no load: {balancer:?}");
        assert_eq!(index(&[0, 4, 0, 0]), 2, "{balancer:?}");
        // 5 on average with the one that comes, a quarter more are 7.
        assert_eq!(index(&[4, 6, 4, 5]), 1, "{balancer:?}");
        assert_eq!(index(&[4, 7, 4, 4]), 2, "{balancer:?}");
    }
}

#[test]
fn where_costs_decide_a_session_leaves_its_home_when_it_costs_much_more_there() {
    let picked = |home_ms| {
        let mut candidates = ranked(&[costing(home_ms, 0.0, 0.0), costing(100.0, 0.0, 0.0)], &[2.0, 1.0]);
        session::prefer_home(&mut candidates);
        let picked = pick(LeastCost, &candidates, IN_FLIGHT_MAX, draws(0.5, 0.5, 0)).unwrap();
        (picked.index, picked.reason)
    };
    assert_eq!(picked(90.0 + AFFINITY_MS), (0, Reason::Affinity));
    assert_eq!(picked(120.0 + AFFINITY_MS), (1, Reason::LeastCost));
}

#[test]
fn without_a_session_a_hash_has_nothing_to_go_by() {
    let candidates = [(Usable, 3), (Usable, 2), (Usable, 1)];
    check(ConsistentHash, &candidates, draws(0.5, 0.5, 0), Ok((2, Reason::LeastLoad)));
}

#[test]
fn equal_endpoints_get_equal_shares() {
    for count in [2, 3, 4, 5, 9] {
        let candidates = usable(&vec![1; count]);
        let mut taken = vec![0u32; count];
        // A grid of draws, each cell once: exact, where random draws would need a tolerance.
        let (rows, columns) = (count as u64, (count as u64 - 1).max(1));
        for row in 0..rows {
            for column in 0..columns {
                let middle = |at: u64, of: u64| (at as f64 + 0.5) / of as f64;
                let draws = draws(middle(row, rows), middle(column, columns), 0);
                taken[pick(P2c, &candidates, IN_FLIGHT_MAX, draws).unwrap().index] += 1;
            }
        }
        assert!(taken.iter().all(|&n| n == taken[0]), "{count} endpoints: {taken:?}");
    }
}

fn any_candidate() -> impl Strategy<Value = Candidate> {
    (prop_oneof![6 => Just(Usable), 1 => Just(Tried), 1 => Just(Ejected)], 0u32..13)
        .prop_map(|(standing, in_flight)| candidate(standing, in_flight))
}

fn any_draws() -> impl Strategy<Value = Draws> {
    (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(first, second, turn)| Draws { first, second, turn })
}

proptest! {
    #[test]
    fn what_cannot_be_chosen_never_is(
        candidates in prop::collection::vec(any_candidate(), 0..12),
        draws in any_draws(),
        balancer in prop::sample::select(ALL.to_vec()),
    ) {
        let is_open = |c: &Candidate| c.standing == Usable && c.in_flight < IN_FLIGHT_MAX;
        match pick(balancer, &candidates, IN_FLIGHT_MAX, draws) {
            Ok(pick) => prop_assert!(is_open(&candidates[pick.index])),
            Err(_) => prop_assert!(!candidates.iter().any(is_open)),
        }
    }

    #[test]
    fn p2c_never_takes_the_most_loaded_of_distinct_loads(
        loads in prop::sample::subsequence((0..IN_FLIGHT_MAX).collect::<Vec<_>>(), 2..=10).prop_shuffle(),
        draws in any_draws(),
    ) {
        let picked = pick(P2c, &usable(&loads), IN_FLIGHT_MAX, draws).unwrap();
        prop_assert!(loads[picked.index] < *loads.iter().max().unwrap());
    }

    #[test]
    fn round_robin_visits_each_once_in_a_round(count in 2usize..12, start in 0u64..1_000) {
        let candidates = usable(&vec![0; count]);
        let mut visited: Vec<_> = (start..start + count as u64)
            .map(|turn| pick(RoundRobin, &candidates, IN_FLIGHT_MAX, draws(0.0, 0.0, turn)).unwrap().index)
            .collect();
        visited.sort_unstable();
        prop_assert_eq!(visited, (0..count).collect::<Vec<_>>());
    }
}
