//! The Gateway API inference extension's default blend: 3 × prefix, 2 × queue, 2 × KV headroom, each from 0 to 1; the best wins.
//!
//! Prefix: the share of the prompt's blocks that this router sent there before. Queue: 1 for the shortest of all queues, 0 for the
//! longest, linear between. KV headroom: what is not held.

use crate::trace::Arrival;

use super::{Router, View};

pub(super) struct Gie;

impl Router for Gie {
    fn choose(&mut self, arrival: &Arrival, view: &mut View<'_>) -> usize {
        let queues: Vec<u32> = (0..view.count()).map(|place| view.report(place).waiting).collect();
        let shortest = queues.iter().copied().min().unwrap_or(0);
        let longest = queues.iter().copied().max().unwrap_or(0);
        view.least(|view, place| {
            let prefix =
                f64::from(view.own.believed_cached(place, arrival)) / f64::from(arrival.prompt_tokens);
            let queue = if longest == shortest {
                1.0
            } else {
                f64::from(longest - queues[place]) / f64::from(longest - shortest)
            };
            -(3.0 * prefix + 2.0 * queue + 2.0 * (1.0 - view.report(place).kv_share()))
        })
    }
}
