//! What goes wrong on purpose, ordered by `POST /admin/faults`.

use serde::{Deserialize, Serialize};

use crate::scheduler::Moment;

/// What an order may say; several fields together are one order.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FaultOrder {
    /// Ends every fault before the rest of the order is applied.
    clear: Option<bool>,
    /// Steps take this many times as long, until cleared.
    slow_factor: Option<f64>,
    /// No step starts for this long.
    stall_ms: Option<u64>,
    /// Answers break off after this many tokens …
    reset_after_tokens: Option<u32>,
    /// … for this many requests; without it for all, until cleared.
    count: Option<u32>,
    /// Requests are answered 503 for this long …
    unavailable_ms: Option<u64>,
    /// … with this `Retry-After`, in seconds.
    retry_after: Option<u32>,
    /// The model is being loaded for this long: requests and `/health` are answered 503.
    loading_ms: Option<u64>,
    /// Everything that runs breaks off, and the caches are empty.
    cold_restart: Option<bool>,
}

/// Why an order is refused.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub(crate) enum BadFault {
    #[error("slow_factor: must be a finite number above 0, not {0}")]
    SlowFactor(f64),
    #[error("count: says for how many requests reset_after_tokens holds, and that is missing")]
    CountAlone,
    #[error("retry_after: says when to come back after unavailable_ms, and that is missing")]
    RetryAfterAlone,
}

impl FaultOrder {
    pub(crate) fn check(&self) -> Result<(), BadFault> {
        match self.slow_factor {
            Some(factor) if !(factor.is_finite() && factor > 0.0) => {
                return Err(BadFault::SlowFactor(factor));
            }
            _ => {}
        }
        if self.count.is_some() && self.reset_after_tokens.is_none() {
            return Err(BadFault::CountAlone);
        }
        if self.retry_after.is_some() && self.unavailable_ms.is_none() {
            return Err(BadFault::RetryAfterAlone);
        }
        Ok(())
    }

    pub(crate) fn restarts(&self) -> bool {
        self.cold_restart == Some(true)
    }
}

/// The faults in force.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Faults {
    pub(crate) slow_factor: f64,
    pub(crate) stalled_until: Moment,
    unavailable_until: Moment,
    retry_after_s: Option<u32>,
    loading_until: Moment,
    reset: Option<Reset>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Reset {
    after_tokens: u32,
    /// Requests still to be hit; `None` for all.
    left: Option<u32>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            slow_factor: 1.0,
            stalled_until: Moment::START,
            unavailable_until: Moment::START,
            retry_after_s: None,
            loading_until: Moment::START,
            reset: None,
        }
    }
}

impl Faults {
    pub(crate) fn apply(&mut self, order: &FaultOrder, now: Moment) {
        if order.clear == Some(true) {
            *self = Self::default();
        }
        if let Some(factor) = order.slow_factor {
            self.slow_factor = factor;
        }
        if let Some(ms) = order.stall_ms {
            self.stalled_until = after_ms(now, ms);
        }
        if let Some(after_tokens) = order.reset_after_tokens {
            self.reset = Some(Reset { after_tokens, left: order.count });
        }
        if let Some(ms) = order.unavailable_ms {
            self.unavailable_until = after_ms(now, ms);
            self.retry_after_s = order.retry_after;
        }
        if let Some(ms) = order.loading_ms {
            self.loading_until = after_ms(now, ms);
        }
    }

    /// Whether requests are answered 503 at `now`, and the `Retry-After` if so.
    pub(crate) fn unavailable_at(&self, now: Moment) -> Option<Option<u32>> {
        (now < self.unavailable_until).then_some(self.retry_after_s)
    }

    /// Whether the model is still being loaded at `now`.
    pub(crate) fn loading_at(&self, now: Moment) -> bool {
        now < self.loading_until
    }

    /// After how many tokens the next request breaks off, if it is to; counts it.
    pub(crate) fn take_reset(&mut self) -> Option<u32> {
        let reset = self.reset.as_mut()?;
        match reset.left.as_mut() {
            Some(0) => return None,
            Some(left) => *left -= 1,
            None => {}
        }
        Some(reset.after_tokens)
    }

    pub(crate) fn report(&self, now: Moment) -> FaultReport {
        FaultReport {
            slow_factor: self.slow_factor,
            stall_ms_left: self.stalled_until.since(now) / 1_000_000,
            reset_after_tokens: self
                .reset
                .filter(|reset| reset.left != Some(0))
                .map(|reset| reset.after_tokens),
            count_left: self.reset.and_then(|reset| reset.left),
            unavailable_ms_left: self.unavailable_until.since(now) / 1_000_000,
            retry_after: self.retry_after_s,
            loading_ms_left: self.loading_until.since(now) / 1_000_000,
        }
    }
}

fn after_ms(now: Moment, ms: u64) -> Moment {
    now.plus(ms.saturating_mul(1_000_000))
}

/// The faults in force, as `GET /admin/faults` shows them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FaultReport {
    slow_factor: f64,
    stall_ms_left: u64,
    reset_after_tokens: Option<u32>,
    count_left: Option<u32>,
    unavailable_ms_left: u64,
    retry_after: Option<u32>,
    loading_ms_left: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(json: &str) -> FaultOrder {
        serde_json::from_str(json).expect("an order")
    }

    #[track_caller]
    fn check(json: &str, refusal: &str) {
        let refused = match serde_json::from_str::<FaultOrder>(json) {
            Err(fault) => fault.to_string(),
            Ok(order) => order.check().expect_err("a refusal").to_string(),
        };
        assert!(refused.contains(refusal), "{refused}");
    }

    #[test]
    fn a_bad_order_is_refused_with_the_name_of_the_field() {
        check(r#"{"slow": 3}"#, "unknown field `slow`");
        check(r#"{"slow_factor": 0}"#, "slow_factor: must be");
        check(r#"{"stall_ms": -1}"#, "invalid value");
        check(r#"{"count": 1}"#, "count: says");
        check(r#"{"retry_after": 1}"#, "retry_after: says");
    }

    #[test]
    fn a_reset_hits_as_many_requests_as_it_says() {
        let mut faults = Faults::default();
        faults.apply(&order(r#"{"reset_after_tokens": 5, "count": 2}"#), Moment::START);
        assert_eq!([faults.take_reset(), faults.take_reset(), faults.take_reset()], [Some(5), Some(5), None]);
    }

    #[test]
    fn clear_comes_before_the_rest_of_the_order() {
        let mut faults = Faults::default();
        faults
            .apply(&order(r#"{"slow_factor": 3.0, "unavailable_ms": 10, "retry_after": 1}"#), Moment::START);
        assert_eq!(faults.unavailable_at(Moment::from_millis(9)), Some(Some(1)));
        assert_eq!(faults.unavailable_at(Moment::from_millis(10)), None);
        faults.apply(&order(r#"{"clear": true, "stall_ms": 7}"#), Moment::START);
        assert_eq!(faults, Faults { stalled_until: Moment::from_millis(7), ..Faults::default() });
    }
}
