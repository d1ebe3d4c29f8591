use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use penstock_model::names::ObjectName;
use penstock_model::snapshot::LoadBalancer;

use super::*;
use crate::pick::{Candidate, Draws, ROWS_MAX, Standing, pick};

fn story(request_id: &str, begun: u64) -> Story {
    Story::new(request_id, Moment(begun), BackendId(ObjectName::new("default", "chat")), Asked::default())
}

fn considered(endpoints: usize) -> Considered {
    let candidate = Candidate::new(Standing::Usable, 0);
    let candidates = vec![candidate; endpoints];
    let picked = pick(LoadBalancer::Random, &candidates, 1, Draws { first: 0, second: 0, turn: 0 });
    let address = |_| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
    Considered::of(LoadBalancer::Random, &candidates, 1, &picked, address)
}

/// All that one request can leave behind.
fn tell_all(stories: &mut Stories, number: Number, said: &str) {
    for _ in 0..4 {
        stories.tell(number, |story| story.considers(Moment(1), considered(2 * ROWS_MAX)));
        let ended = Ended::Failed { kind: Kind::Reset, message: text(said) };
        stories.tell(number, |story| story.attempt_ends(Moment(2), ended, None));
    }
    let outcome = Outcome {
        at: Moment(3),
        status: 502,
        class: Class::Failure,
        error: Some("upstream_reset"),
        message: text(said),
        first_byte: None,
        first_token: None,
        input_tokens: None,
        cached_tokens: None,
        output_tokens: None,
    };
    stories.tell(number, |story| story.outcome = Some(outcome));
}

/// What is counted is what is there.
#[track_caller]
fn check_bounds(stories: &Stories) {
    let heap_bytes: usize = stories.kept.iter().map(Story::heap_bytes).sum();
    assert_eq!(stories.heap_bytes, heap_bytes);
    assert!(stories.count() <= STORIES_MAX && stories.bytes() <= BYTES_MAX, "{}", stories.bytes());
}

#[test]
fn a_request_is_found_with_all_that_was_told_of_it_newest_first() {
    let mut stories = Stories::default();
    let [first, other, second] = [("a", 1), ("b", 2), ("a", 3)].map(|(id, at)| stories.begin(story(id, at)));
    tell_all(&mut stories, first, "one");
    tell_all(&mut stories, second, "two");
    let found = stories.find("a");
    let told = |story: &Story| {
        (story.begun, story.attempts.len(), story.outcome.as_ref().map(|o| o.message.to_string()))
    };
    assert_eq!(
        found.iter().map(told).collect::<Vec<_>>(),
        [(Moment(3), 4, Some("two".to_owned())), (Moment(1), 4, Some("one".to_owned()))]
    );
    assert_eq!(stories.find("b").iter().map(told).collect::<Vec<_>>(), [(Moment(2), 0, None)]);
    assert_eq!(stories.find("c"), []);
    stories.tell(other, |story| story.considers(Moment(4), considered(1)));
    assert_eq!(stories.find("b")[0].attempts.len(), 1);
    check_bounds(&stories);
}

#[test]
fn the_oldest_is_forgotten_and_what_is_told_of_it_then_is_told_to_nobody() {
    let mut stories = Stories::default();
    let oldest = stories.begin(story("oldest", 0));
    for at in 1..=STORIES_MAX as u64 {
        stories.begin(story("later", at));
    }
    assert_eq!(
        (stories.count(), stories.find("oldest"), stories.oldest()),
        (STORIES_MAX, vec![], Some(Moment(1)))
    );
    tell_all(&mut stories, oldest, "late");
    assert!(stories.find("later").iter().all(|story| story.attempts.is_empty()));
    check_bounds(&stories);
}

#[test]
fn however_long_ids_and_messages_are_memory_is_bounded() {
    let mut stories = Stories::default();
    let long = "é".repeat(100_000);
    for at in 0..3 * STORIES_MAX as u64 {
        let number = stories.begin(story(&format!("{at}{long}"), at));
        tell_all(&mut stories, number, &long);
        if at % 512 == 0 {
            check_bounds(&stories);
        }
    }
    check_bounds(&stories);
    assert!(stories.count() > 400, "with all that there can be, some hundreds are kept: {}", stories.count());
}

#[test]
fn requests_that_are_placed_at_once_are_all_kept() {
    let mut stories = Stories::default();
    for at in 0..2 * STORIES_MAX as u64 {
        let number = stories.begin(story("7f3c2b1a-0000-4000-8000-000000000000", at));
        stories.tell(number, |story| story.considers(Moment(at), considered(3)));
    }
    check_bounds(&stories);
    assert_eq!(
        (stories.count(), stories.find("7f3c2b1a-0000-4000-8000-000000000000").len()),
        (STORIES_MAX, FOUND_MAX)
    );
}

#[test]
fn a_text_is_cut_between_characters() {
    assert_eq!(
        (&*text("short"), text(&"é".repeat(200)).len(), text(&"€".repeat(200)).len()),
        ("short", 256, 255)
    );
}
