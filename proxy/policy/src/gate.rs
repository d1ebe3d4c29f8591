//! May a request come in, at the sidecar beside the server: the only place that knows how the server is at this moment.
//!
//! The sidecar that sent it chose by reports that may be old. It says with the request how long it is willing to wait for the first
//! token there, before it would rather try elsewhere: its patience. The first choices have little, since another endpoint may well
//! be free; the last one has all that was promised to the caller, and may be one that refused for want of patience.
//!
//! ```text
//!   head arrives ─► cost of serving it now ─┬► late for its caller ────────────────────────► refuse, before the body is sent,
//!                     ▲                     ├► beyond its patience ────────────────────────► with the present state
//!                     │                     ├► those who are there would become late (1)
//!                     │                     │    ├► so much that its patience ends before ─► the same
//!                     └── a token, an end ──┴────┴► else: wait at the door
//!                                           └► else: serve
//! ```
//!
//! (1) is what keeps a crowd from making everybody late. Under load nearly all promises break not at the first token but later, when
//! prompts that were let in meanwhile hold up the answers under way. So nobody comes in at the price of somebody who is in: see
//! [`Promises`]. Those gain time with every token, mostly several milliseconds in one, so a prompt that they cannot bear now they can
//! bear in a moment, and it has mostly been promised more time than it takes: it waits at the [`Door`]. What is too much for all
//! endpoints is answered 429 at once, and the rest is served as promised, however much comes.

mod door;
mod patience;
mod promises;

use crate::pick::cost::Terms;
pub use door::{Door, Pass};
pub use patience::{Margin, Patience, REFUSALS_MAX};
pub use promises::{Place, Promise, Promises, UnderWay};

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It comes in.
    Serve,
    /// It would be in time, and so would those who are there if it came in somewhat later.
    Wait,
    /// It does not.
    Refuse(Refusal),
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no KV memory for it in time, or no place.
    Memory,
    /// It would come too late for what was promised.
    Late,
    /// It would be in time, and somebody who is there would not be any more.
    Promised,
    /// It would be in time, and probably sooner elsewhere.
    Elsewhere,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Memory, Self::Late, Self::Promised, Self::Elsewhere];

    /// As it is written in a header and in a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Late => "late",
            Self::Promised => "promised",
            Self::Elsewhere => "elsewhere",
        }
    }

    /// What it is about, for people.
    pub fn why(self) -> &'static str {
        match self {
            Self::Memory => "there is no KV memory or place for it in time",
            Self::Late => "its first token would come later than was promised",
            Self::Promised => "answers under way there would become later than was promised",
            Self::Elsewhere => {
                "its first token would come later than the caller's sidecar waits before it asks another"
            }
        }
    }
}

/// Whether a request that would cost `terms` here and now comes in, where those who are there gain so much to spare in each millisecond
/// ([`Promises::gain`]).
pub fn decide(terms: &Terms, patience: Patience, gain: f64) -> Verdict {
    let first_token_ms = terms.first_token_ms();
    if first_token_ms > patience.promised_ms {
        let without_room_ms = first_token_ms - terms.room_ms;
        let memory = without_room_ms <= patience.promised_ms;
        return Verdict::Refuse(if memory { Refusal::Memory } else { Refusal::Late });
    }
    if terms.beyond_ms > 0.0 {
        let can_wait = first_token_ms + terms.beyond_ms / gain <= patience.first_token_ms;
        return if can_wait { Verdict::Wait } else { Verdict::Refuse(Refusal::Promised) };
    }
    if first_token_ms > patience.first_token_ms {
        return Verdict::Refuse(Refusal::Elsewhere);
    }
    Verdict::Serve
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wait_ms: f64, room_ms: f64, patience: [f64; 2], expected: Verdict) {
        let terms = Terms { wait_ms, own_ms: 10.0, room_ms, others_ms: 1e6, ..Terms::default() };
        let [first_token_ms, promised_ms] = patience;
        assert_eq!(
            decide(&terms, Patience { first_token_ms, promised_ms }, 1.0),
            expected,
            "{terms:?} {patience:?}"
        );
    }

    #[test]
    fn who_is_served_in_time_comes_in_whatever_it_costs_others() {
        check(90.0, 0.0, [100.0, 500.0], Verdict::Serve);
        check(490.0, 0.0, [500.0, 500.0], Verdict::Serve);
    }

    #[test]
    fn nobody_comes_in_at_the_price_of_who_is_there() {
        let terms = Terms { own_ms: 10.0, beyond_ms: 0.1, ..Terms::default() };
        let promised = Verdict::Refuse(Refusal::Promised);
        assert_eq!(decide(&terms, Patience::at_last(500.0), 0.0), promised, "it never gets better");
        assert_eq!(decide(&terms, Patience { first_token_ms: 5.0, promised_ms: 500.0 }, 4.0), promised);
        assert_eq!(decide(&terms, Patience::at_last(5.0), 4.0), Verdict::Refuse(Refusal::Late));
    }

    #[test]
    fn who_can_be_borne_before_its_patience_ends_waits() {
        let verdict = |beyond_ms, gain| {
            let terms = Terms { own_ms: 10.0, beyond_ms, ..Terms::default() };
            decide(&terms, Patience { first_token_ms: 110.0, promised_ms: 500.0 }, gain)
        };
        let promised = Verdict::Refuse(Refusal::Promised);
        assert_eq!([verdict(100.0, 1.0), verdict(101.0, 1.0)], [Verdict::Wait, promised]);
        assert_eq!([verdict(400.0, 4.0), verdict(401.0, 4.0)], [Verdict::Wait, promised]);
        assert_eq!(verdict(0.0, 0.0), Verdict::Serve);
        let left = Patience { first_token_ms: 110.0, promised_ms: 500.0 }.after(60.0);
        assert_eq!((left.first_token_ms, left.promised_ms), (50.0, 440.0));
    }

    #[test]
    fn a_refusal_says_why() {
        check(91.0, 0.0, [100.0, 500.0], Verdict::Refuse(Refusal::Elsewhere));
        check(491.0, 0.0, [1e9, 500.0], Verdict::Refuse(Refusal::Late));
        check(91.0, 500.0, [100.0, 500.0], Verdict::Refuse(Refusal::Memory));
        check(491.0, 500.0, [100.0, 500.0], Verdict::Refuse(Refusal::Late));
    }
}
