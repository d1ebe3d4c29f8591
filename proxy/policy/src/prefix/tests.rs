use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const KEY: PrefixKey = PrefixKey::new(7, *b"0123456789abcdef");
const NEXT: PrefixKey = PrefixKey::new(8, *b"fedcba9876543210");

fn keys() -> Keys {
    Keys::only(KEY)
}

/// A prompt of blocks of 100 tokens; equal leading names are equal beginnings.
fn prompt(names: &[u64]) -> Vec<Boundary> {
    let mut hash = 0_u64;
    let chained = names.iter().map(|name| {
        hash = (hash ^ name).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29) ^ 1;
        hash
    });
    chained.zip(1..).map(|(hash, count)| Boundary { tokens: count * 100, hash }).collect()
}

fn tokens_of(prompt: &[Boundary]) -> u32 {
    prompt.last().map_or(0, |last| last.tokens) + 50
}

fn asked(prompt: &[Boundary], keys: &Keys) -> Asked {
    Asked::new(prompt, tokens_of(prompt), keys)
}

/// A subscriber that was told all there is.
fn told(held: &Held) -> Index {
    let (mut cursor, mut index) = (Cursor::default(), Index::default());
    while let Some(digest) = held.digest(&mut cursor, &keys()) {
        index.apply(&digest).expect("in order");
    }
    index
}

/// Runs a script of lines `use NAMES`, `room TOKENS`, `counted CACHED NAMES` (of a prompt believed now), `forget`, and
/// `has NAMES → TOKENS`; a prompt is `1 2 3`.
fn check(script: &str) {
    let mut held = Held::default();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (rest, expected) = rest.split_once(" → ").unwrap_or((rest, ""));
        let numbers: Vec<u64> = rest.split_whitespace().map(|word| word.parse().expect(line)).collect();
        match verb {
            "use" => held.uses(&prompt(&numbers)),
            "room" => held.has_room(numbers[0]),
            "forget" => held.forget(),
            "counted" => {
                let prompt = prompt(&numbers[1..]);
                let estimated = tokens_of(&prompt);
                let belief = held.believed(&prompt);
                let cached = u32::try_from(numbers[0]).expect(line);
                held.corrected(&belief, Counted { estimated, input: estimated, cached });
                held.uses(&prompt);
            }
            "has" => {
                let prompt = prompt(&numbers);
                let expected: u32 = expected.parse().expect(line);
                assert_eq!(held.believed(&prompt).tokens(), expected, "{line}");
                assert_eq!(told(&held).cached_tokens(&asked(&prompt, &keys())), expected, "told: {line}");
            }
            _ => panic!("no such line: {line}"),
        }
    }
}

#[test]
fn what_one_prompt_leaves_the_next_one_finds() {
    check(
        "use 1 2 3
         has 1 2 3 → 300
         has 1 2 9 → 200
         has 2 3 → 0
         use 1 2 9
         has 1 2 3 → 300
         has 1 2 9 4 → 300",
    );
}

#[test]
fn the_longest_unused_goes_first_and_the_end_before_the_beginning() {
    check(
        "room 500
         use 1 2 3
         use 7 8
         use 20
         has 1 2 3 → 200
         has 7 8 → 200
         use 1
         use 30 31 32
         has 1 2 → 100
         has 7 8 → 0
         has 30 31 32 → 300
         room 200
         has 30 31 32 → 200
         has 1 → 0",
    );
}

#[test]
fn a_prompt_longer_than_the_room_keeps_its_beginning() {
    check(
        "room 250
         use 1 2 3 4
         has 1 2 3 4 → 200",
    );
}

#[test]
fn an_engine_that_found_less_has_forgotten_all_that_is_older_and_has_no_room_for_more() {
    check(
        "use 50 51 52
         use 1 2 3 4 5 6
         use 70 71 72
         counted 100 1 2 3 4 5 6
         has 50 51 52 → 0
         has 70 71 72 → 0
         has 1 2 3 4 5 6 → 600
         use 80
         has 1 2 3 4 5 6 → 500",
    );
}

#[test]
fn an_engine_without_a_cache_is_believed_after_a_few_prompts() {
    check(
        "use 1 2 3 4 5 6 7 8
         counted 0 1 2 3 4 5 6 7 8
         has 1 2 3 4 5 6 7 8 → 800
         counted 0 1 2 3 4 5 6 7 8
         has 1 2 3 4 5 6 7 8 → 400
         counted 0 1 2 3 4 5 6 7 8
         has 1 2 3 4 5 6 7 8 → 200
         use 11 12 13
         has 11 12 13 → 200",
    );
}

#[test]
fn an_engine_that_finds_more_is_given_more_room() {
    check(
        "use 1 2 3 4
         counted 0 1 2 3 4
         counted 0 1 2 3 4
         has 1 2 3 4 → 200
         counted 400 1 2 3 4
         has 1 2 3 4 → 400
         room 100
         has 1 2 3 4 → 100",
    );
}

#[test]
fn a_little_less_than_believed_is_no_error() {
    check(
        "use 1 2 3 4
         counted 150 1 2 3 4
         has 1 2 3 4 → 400",
    );
}

#[test]
fn an_engine_that_began_anew_holds_nothing() {
    check(
        "use 1 2 3 4
         counted 0 1 2 3 4
         forget
         has 1 → 0
         use 1 2
         has 1 2 → 200",
    );
}

#[test]
fn counts_of_the_engine_are_brought_to_the_scale_of_the_estimate() {
    for (input, cached, expected) in [(450, 400, 400), (900, 800, 400), (900, 100, 0), (0, 0, 0)] {
        let mut held = Held::default();
        let prompt = prompt(&[1, 2, 3, 4]);
        held.uses(&prompt);
        let belief = held.believed(&prompt);
        held.corrected(&belief, Counted { estimated: 450, input, cached });
        assert_eq!(held.believed(&prompt).tokens(), expected, "{cached} of {input}");
    }
}

#[test]
fn not_all_of_a_prompt_is_ever_cached() {
    let mut held = Held::default();
    let prompt = prompt(&[1, 2]);
    held.uses(&prompt);
    assert_eq!(told(&held).cached_tokens(&Asked::new(&prompt, 200, &keys())), 199);
    assert_eq!(told(&held).cached_tokens(&Asked::new(&[], 0, &keys())), 0);
    assert_eq!(Index::default().cached_tokens(&asked(&prompt, &keys())), 0);
}

#[test]
fn hashes_under_different_keys_never_match() {
    let same_id = PrefixKey::new(KEY.id(), *b"another secret!!");
    let hashes: Vec<u64> = (0..10_000).collect();
    let under = |key: &PrefixKey| hashes.iter().map(|hash| key.fingerprint(*hash)).collect::<Vec<_>>();
    let one = under(&KEY);
    for other in [under(&NEXT), under(&same_id)] {
        assert_eq!(one.iter().zip(&other).filter(|(one, other)| one == other).count(), 0);
    }
    let mut held = Held::default();
    let prompt = prompt(&[1, 2]);
    held.uses(&prompt);
    assert_eq!(told(&held).cached_tokens(&asked(&prompt, &Keys::only(NEXT))), 0);
    assert_eq!(told(&held).cached_tokens(&asked(&prompt, &Keys::only(same_id))), 0);
}

/// Sidecars of two releases must make the same fingerprints.
#[test]
fn fingerprints_stay_what_they_are() {
    assert_eq!(
        [KEY.fingerprint(0), KEY.fingerprint(1), NEXT.fingerprint(u64::MAX)],
        [2_375_828_161, 3_317_367_943, 2_266_369_944]
    );
}

#[test]
fn a_key_does_not_print_its_secret() {
    assert_eq!(format!("{:?}", keys()), "Keys { sending: PrefixKey(7), also: None }");
}

#[test]
fn a_key_is_rotated_without_a_moment_of_not_knowing() {
    let mut held = Held::default();
    let prompt = prompt(&[1, 2, 3]);
    held.uses(&prompt);
    let before = keys();
    let first = Keys { sending: KEY, also: Some(NEXT) };
    let second = Keys { sending: NEXT, also: Some(KEY) };
    let after = Keys::only(NEXT);
    let (mut cursor, mut index) = (Cursor::default(), Index::default());
    let stages = [
        (before, before),
        (before, first),
        (first, second),
        (second, first),
        (second, after),
        (after, after),
    ];
    for (server, caller) in stages {
        while let Some(digest) = held.digest(&mut cursor, &server) {
            assert_eq!(digest.key, server.sending.id());
            index.apply(&digest).expect("in order");
        }
        assert_eq!(index.cached_tokens(&asked(&prompt, &caller)), 300, "{server:?} {caller:?}");
    }
    assert_eq!(index.cached_tokens(&asked(&prompt, &before)), 0, "the old key has gone");
}

#[test]
fn a_digest_that_is_missing_is_noticed_and_the_next_beginning_repairs() {
    let mut held = Held::default();
    let (mut cursor, mut index) = (Cursor::default(), Index::default());
    let mut next = |held: &mut Held, name: u64| {
        held.uses(&prompt(&[name]));
        held.digest(&mut cursor, &keys()).expect("there is news")
    };
    let digests: Vec<Digest> = (1..5).map(|name| next(&mut held, name)).collect();
    index.apply(&digests[0]).expect("the first");
    index.apply(&digests[1]).expect("the second");
    assert_eq!(index.apply(&digests[3]), Err(Gap { expected: 2, came: 3 }));
    assert_eq!(index.apply(&Digest { key: 9, ..digests[2].clone() }), Err(Gap { expected: 2, came: 2 }));
    assert_eq!(index.entries(), 2);
    assert_eq!(Index::default().apply(&digests[1]), Err(Gap { expected: 0, came: 1 }));
    index.apply(&held.digest(&mut Cursor::default(), &keys()).expect("all of it")).expect("a new beginning");
    assert_eq!(index.entries(), 4);
}

#[test]
fn who_knows_everything_is_told_nothing() {
    let mut held = Held::default();
    let mut cursor = Cursor::default();
    let empty = Digest { key: KEY.id(), number: 0, removed: vec![], added: vec![] };
    assert_eq!(held.digest(&mut cursor, &keys()), Some(empty), "that nothing is held has to be said once");
    assert_eq!(held.digest(&mut cursor, &keys()), None);
    held.uses(&prompt(&[1]));
    assert_eq!(held.digest(&mut cursor, &keys()).map(|digest| digest.added.len()), Some(1));
    held.uses(&prompt(&[1]));
    assert_eq!(held.digest(&mut cursor, &keys()), None, "it was there before");
}

/// Prompts of many kinds pass, and are forgotten; some subscribers listen all the time, some now and then, some lag behind what is
/// remembered. After it has listened to its end each knows what is held, and no digest is too long.
#[test]
fn every_subscriber_ends_with_what_is_held() {
    let mut held = Held::default();
    held.has_room(900_000);
    let periods = [1, 3, 50, 1_000, 3_000];
    let mut subscribers = vec![(Cursor::default(), Index::default()); periods.len()];
    let mut state = 1_u64;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        (state >> 33) % below
    };
    let mut lost = 0;
    let mut recent = Vec::new();
    for round in 0..=3_000_u64 {
        let names: Vec<u64> =
            (0..1 + draw(60)).map(|depth| if depth < 5 { depth } else { draw(4) + depth }).collect();
        let first = [draw(40)];
        let prompt = prompt(&[&first[..], &names[..]].concat());
        held.uses(&prompt);
        recent.push(prompt);
        for (period, (cursor, index)) in periods.iter().zip(&mut subscribers) {
            if round % period > 0 {
                continue;
            }
            while let Some(digest) = held.digest(cursor, &keys()) {
                lost += usize::from(digest.number == 0 && round > 0);
                let bytes = digest.encode();
                assert!(bytes.len() <= DIGEST_BYTES_MAX, "{}", bytes.len());
                index.apply(&Digest::decode(&bytes).expect("whole")).expect("in order");
            }
            assert_eq!(index.entries(), held.entries(), "every {period} in round {round}");
        }
    }
    assert!(held.entries() > 4_092, "{}: more than one digest takes", held.entries());
    assert!(lost > 0, "none lagged behind");
    let mut partly = 0;
    for prompt in &recent {
        let held = held.believed(prompt).tokens();
        partly += usize::from(held > 0 && held < prompt.len() as u32 * 100);
        for (_, index) in &subscribers {
            assert_eq!(index.cached_tokens(&asked(prompt, &keys())), held);
        }
    }
    assert!(partly > 500, "{partly}");
}

#[test]
fn memory_is_constant_under_any_traffic() {
    const { assert!(64 * INDEX_BYTES_MAX < 4 * 1024 * 1024) };
    let (mut held, mut index, mut cursor) = (Held::default(), Index::default(), Cursor::default());
    for name in 0..5_000 {
        held.uses(&prompt(&[name, 1, 2, 3, 4, 5, 6]));
        if name % 100 == 0 {
            while let Some(digest) = held.digest(&mut cursor, &keys()) {
                index.apply(&digest).expect("in order");
            }
        }
        assert!(held.entries() <= ENTRIES_MAX && index.bytes() <= INDEX_BYTES_MAX);
    }
    assert_eq!(held.entries(), ENTRIES_MAX);
    assert_eq!(index.entries(), ENTRIES_MAX);
    // Somebody who says more than anybody holds.
    let flood =
        |number| Digest { key: 1, number, removed: vec![], added: (number * 4_000..).take(4_000).collect() };
    for number in 0..50 {
        index.apply(&flood(number)).expect("in order");
    }
    assert_eq!(index.entries(), ENTRIES_MAX);
    assert!(index.bytes() <= INDEX_BYTES_MAX);
}

#[test]
fn bytes_that_are_cut_or_changed_are_refused_or_read_as_something_else() {
    let digest = Digest { key: 0x0102_0304, number: 5, removed: vec![1, 2], added: vec![0xDEAD_BEEF, 4, 5] };
    let bytes = digest.encode();
    assert_eq!(bytes.len(), 13 + 20);
    assert_eq!(Digest::decode(&bytes), Ok(digest.clone()));
    for length in 0..bytes.len() {
        let wanted = if length < 13 { 13 } else { bytes.len() };
        assert_eq!(Digest::decode(&bytes[..length]), Err(Garbled::Length { came: length, wanted }));
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(Digest::decode(&longer), Err(Garbled::Length { came: 34, wanted: 33 }));
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match Digest::decode(&flipped) {
            Ok(other) => assert_ne!(other, digest, "bit {bit}"),
            Err(Garbled::Version(version)) => assert!(bit < 8 && version != 1),
            Err(Garbled::Length { .. }) => assert!((72..104).contains(&bit), "bit {bit}"),
        }
    }
    let too_many = [vec![1], vec![0; 8], vec![0xFF; 4], vec![0; 131_070 * 4]].concat();
    assert_eq!(
        Digest::decode(&too_many),
        Err(Garbled::Length { came: too_many.len(), wanted: DIGEST_BYTES_MAX })
    );
    assert_eq!(Garbled::Version(9).to_string(), "prefix digest of version 9, this release reads version 1");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut versioned = bytes.clone();
        if let Some(first) = versioned.first_mut() {
            *first = 1;
        }
        for bytes in [bytes, versioned] {
            if let Ok(digest) = Digest::decode(&bytes) {
                prop_assert_eq!(digest.encode(), bytes);
                let mut index = Index::default();
                let _gap = index.apply(&Digest { number: 0, ..digest });
            }
        }
    }

    /// Fingerprints that all want to stand in a few places, so that they push each other on and around the end of the table.
    #[test]
    fn an_index_is_a_set(changes in proptest::collection::vec((any::<bool>(), 0_u32..6, 0_u32..90), 1..600)) {
        let mut index = Index::default();
        let mut set = BTreeSet::new();
        for (number, (is_added, group, low)) in (0..).zip(changes) {
            let fingerprint = (u32::MAX / 5 * group).saturating_sub(1_000).max(1) + low;
            let (mut removed, mut added) = (vec![], vec![]);
            if is_added {
                set.insert(fingerprint);
                added.push(fingerprint);
            } else {
                set.remove(&fingerprint);
                removed.push(fingerprint);
            }
            index.apply(&Digest { key: 1, number, removed, added }).expect("in order");
            prop_assert_eq!(index.entries(), set.len());
        }
        for group in 0..6_u32 {
            for low in 0..90 {
                let fingerprint = (u32::MAX / 5 * group).saturating_sub(1_000).max(1) + low;
                prop_assert_eq!(index.contains(fingerprint), set.contains(&fingerprint), "{}", fingerprint);
            }
        }
    }
}
