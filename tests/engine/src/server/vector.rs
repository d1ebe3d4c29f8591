//! What generates no text: prefills, and vectors in which what shares tokens lies close together.

use std::sync::Arc;

use super::account::Ending;
use super::live::{Event, Work};
use super::reply::Refusal;
use super::{RequestId, Service, prompt};
use crate::bpe::Token;
use crate::mix::scramble;

/// Computes these, each as one sequence that ends with what would be its first token; false if that is broken off. Equal ones of one
/// `purpose` share blocks of the cache.
///
/// # Errors
/// One does not fit, or nothing is taken on now.
pub(crate) async fn prefill(
    service: &Arc<Service>,
    sequences: &[Vec<Token>],
    model: &str,
    purpose: &str,
    id: &RequestId,
) -> Result<bool, Refusal> {
    let mut tickets = Vec::with_capacity(sequences.len());
    for tokens in sequences {
        service.output_room(tokens.len())?;
        let work = Work {
            prompt_tokens: tokens.len() as u32,
            block_hashes: prompt::block_hashes(tokens, service.options.block_size, model, purpose),
            output_tokens_max: 1,
            ending: Ending::Prefill,
            request_id: id.0.clone(),
        };
        tickets.push(service.live.submit(work)?);
    }
    for ticket in &mut tickets {
        let Some(Event::Token { .. }) = ticket.next().await else { return Ok(false) };
    }
    Ok(true)
}

/// Each token pulls every number a little up or down; the sum is scaled to length 1.
pub(crate) fn embed(tokens: &[Token], dimensions: u32) -> Vec<f32> {
    let mut sums = vec![0i64; dimensions as usize];
    for token in tokens {
        for (block, sums) in sums.chunks_mut(64).enumerate() {
            let signs = scramble(u64::from(*token) << 16 | block as u64);
            for (bit, sum) in sums.iter_mut().enumerate() {
                *sum += if signs >> bit & 1 == 1 { 1 } else { -1 };
            }
        }
    }
    let length = sums.iter().map(|sum| (sum * sum) as f64).sum::<f64>().sqrt().max(1.0);
    sums.iter().map(|sum| (*sum as f64 / length) as f32).collect()
}

/// How close two vectors of length 1 lie, -1 to 1.
pub(crate) fn closeness(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_have_length_one_and_related_texts_are_close() {
        let (one, near, far) =
            (embed(&[1, 2, 3, 4], 256), embed(&[1, 2, 3, 9], 256), embed(&[50, 60, 70], 256));
        assert!((closeness(&one, &one) - 1.0).abs() < 1e-3);
        assert!(closeness(&one, &near) > 0.5 && closeness(&one, &far) < 0.4);
    }
}
