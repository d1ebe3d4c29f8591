//! Who waits at the door of a server until those who are there can bear its prompt.
//!
//! Whoever comes next is the one whose prompt takes least: it is borne soonest, and the most get what they were promised. So a long
//! prompt may have to let many short ones pass, until its patience ends and it is refused. Who comes while others wait is not made to
//! wait for them. Nobody waits by a clock of the door's own: it is looked at when something has changed, and when a patience ends.

use std::collections::BTreeMap;

use penstock_model::units::Moment;

use super::{Patience, Refusal, Verdict};

/// Those who wait at once, at most; who comes then is refused as if it could not wait.
const WAITING_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Waiting<T> {
    who: T,
    patience: Patience,
    since: Moment,
}

/// How somebody's waiting ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// It comes in.
    In,
    /// It does not.
    Out(Refusal),
}

/// Those who wait, by what their prompts take and then by when they came.
#[derive(Clone, Debug, PartialEq)]
pub struct Door<T> {
    waiting: BTreeMap<(u64, u64), Waiting<T>>,
    came: u64,
}

impl<T> Default for Door<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), came: 0 }
    }
}

impl<T> Door<T> {
    /// Somebody waits from `now` on, with so many prompt tokens to compute.
    ///
    /// # Errors
    /// Where too many do already: gives it back.
    pub fn wait(&mut self, who: T, uncached_tokens: f64, patience: Patience, now: Moment) -> Result<(), T> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(who);
        }
        self.came += 1;
        self.waiting.insert((uncached_tokens as u64, self.came), Waiting { who, patience, since: now });
        Ok(())
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The first whose waiting ends at `now`, as `decide` says of each with what is left of its patience. Whoever comes in changes what
    /// can be borne: so it is asked again until it gives nobody.
    pub fn next(
        &mut self,
        now: Moment,
        mut decide: impl FnMut(&T, Patience) -> Verdict,
    ) -> Option<(T, Pass)> {
        let found = self.waiting.iter().find_map(|(place, waiting)| {
            let waited_ms = now.since(waiting.since).as_secs_f64() * 1e3;
            match decide(&waiting.who, waiting.patience.after(waited_ms)) {
                Verdict::Serve => Some((*place, Pass::In)),
                Verdict::Refuse(refusal) => Some((*place, Pass::Out(refusal))),
                Verdict::Wait => None,
            }
        });
        let (place, pass) = found?;
        self.waiting.remove(&place).map(|waiting| (waiting.who, pass))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { first_token_ms: 100.0, promised_ms: 500.0 };

    fn ms(ms: u64) -> Moment {
        Moment(ms * 1_000_000)
    }

    /// Three who came one after the other with so many tokens.
    fn door(tokens: [f64; 3]) -> Door<u32> {
        let mut door = Door::default();
        for (who, tokens) in (0..).zip(tokens) {
            assert_eq!(door.wait(who, tokens, PATIENCE, ms(u64::from(who))), Ok(()));
        }
        door
    }

    #[test]
    fn the_shortest_comes_first_and_of_equals_who_came_first() {
        let mut door = door([900.0, 200.0, 200.0]);
        let mut next = || door.next(ms(10), |_, _| Verdict::Serve);
        assert_eq!(
            [next(), next(), next(), next()],
            [Some((1, Pass::In)), Some((2, Pass::In)), Some((0, Pass::In)), None]
        );
        assert!(door.is_empty());
    }

    #[test]
    fn who_cannot_come_in_yet_lets_others_pass() {
        let mut door = door([900.0, 100.0, 200.0]);
        let verdict = |who: &u32, _| if *who == 2 { Verdict::Serve } else { Verdict::Wait };
        assert_eq!([door.next(ms(10), verdict), door.next(ms(10), verdict)], [Some((2, Pass::In)), None]);
        assert!(!door.is_empty());
    }

    #[test]
    fn patience_runs_out_while_they_wait() {
        let mut door = door([1.0, 2.0, 3.0]);
        let mut left_ms = Vec::new();
        let verdict = |_: &u32, patience: Patience| {
            left_ms.push((patience.first_token_ms, patience.promised_ms));
            if patience.first_token_ms < 40.0 { Verdict::Refuse(Refusal::Promised) } else { Verdict::Wait }
        };
        assert_eq!(door.next(ms(42), verdict), None);
        assert_eq!(left_ms, [(58.0, 458.0), (59.0, 459.0), (60.0, 460.0)]);
        let verdict = |_: &u32, patience: Patience| {
            if patience.first_token_ms < 40.0 { Verdict::Refuse(Refusal::Promised) } else { Verdict::Wait }
        };
        assert_eq!(door.next(ms(61), verdict), Some((0, Pass::Out(Refusal::Promised))));
        assert_eq!(door.next(ms(61), verdict), None);
    }

    #[test]
    fn only_so_many_wait() {
        let mut door = Door::default();
        let taken = (0..1_000u32).take_while(|who| door.wait(*who, 1.0, PATIENCE, ms(0)).is_ok()).count();
        assert_eq!(taken, WAITING_MAX);
    }
}
