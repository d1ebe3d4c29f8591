//! For how many sequences an engine has places: no engine tells, and who is let in beyond that waits for an answer to end.
//!
//! ```text
//!   running │        ▄▄▄████████████  as many as ever, and somebody waits: these are all the places
//!           │   ▄▄███
//!           │▄██          ▄▄▄▄        far fewer, and somebody waits: for something else
//!           └──────────────────────►
//! ```
//!
//! What was seen counts for a short time only, so that who took something else for a lack of places refuses few for it; where there are too
//! few of them, it is seen again and again.

use std::time::Duration;

use penstock_model::units::Moment;

/// So long it is believed.
const BELIEVED: Duration = Duration::from_secs(5);
/// So long the most that have run at once are remembered, and up to twice as long.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Share of the most that have run at once, from which all places may be taken: a step ends some answers and begins others.
const NEARLY_ALL: f64 = 0.95;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Places {
    /// The most that have run at once in this period and the one before, and when this one began.
    most: [u32; 2],
    since: Moment,
    /// How many there are, and when that was seen last.
    seen: Option<(u32, Moment)>,
}

impl Places {
    /// So many run.
    pub(super) fn running(&mut self, running: u32, now: Moment) {
        if now.since(self.since) >= REMEMBERED {
            self.most = [0, self.most[0]];
            self.since = now;
        }
        self.most[0] = self.most[0].max(running);
        if let Some((places, _)) = &mut self.seen {
            *places = running.max(*places);
        }
    }

    /// While so many run, somebody waits for something else than prompts.
    pub(super) fn is_blocked(&mut self, running: u32, now: Moment) {
        let most = self.most[0].max(self.most[1]);
        if running > 0 && f64::from(running) >= NEARLY_ALL * f64::from(most) {
            let places = self.known(now).max(running);
            self.seen = Some((places, now));
        }
    }

    /// How many there are; 0 where that is not known.
    pub(super) fn known(&self, now: Moment) -> u32 {
        self.seen.filter(|(_, seen)| now.since(*seen) < BELIEVED).map_or(0, |(places, _)| places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Moment {
        Moment(s * 1_000_000_000)
    }

    /// So many have run in second 0 and 1, and somebody waits then.
    fn after([most, running]: [u32; 2]) -> Places {
        let mut places = Places::default();
        places.running(most, at(0));
        places.running(running, at(1));
        places.is_blocked(running, at(1));
        places
    }

    #[test]
    fn who_waits_while_as_many_run_as_ever_waits_for_a_place() {
        assert_eq!(after([256, 256]).known(at(1)), 256);
        assert_eq!(after([256, 250]).known(at(1)), 250);
        assert_eq!(
            [after([256, 200]), after([256, 2]), after([0, 0])].map(|places| places.known(at(1))),
            [0; 3]
        );
    }

    #[test]
    fn it_is_believed_for_a_while_and_more_than_that_are_more_places() {
        let mut places = after([256, 250]);
        assert_eq!([places.known(at(5)), places.known(at(6))], [250, 0]);
        places.running(253, at(2));
        assert_eq!(places.known(at(2)), 253);
        places.is_blocked(251, at(3));
        assert_eq!(places.known(at(7)), 253);
    }

    #[test]
    fn an_engine_that_begins_anew_with_fewer_places_is_known_in_the_end() {
        let mut places = after([256, 256]);
        for second in 2..700 {
            places.running(64, at(second));
            places.is_blocked(64, at(second));
        }
        assert_eq!(places.known(at(700)), 64);
    }
}
