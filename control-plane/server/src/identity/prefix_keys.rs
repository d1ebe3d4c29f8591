//! Keys under which sidecars tell each other which prompts a model server has cached.
//!
//! A key follows from the authority's private key and the time, by HKDF: every replica of the control plane comes to the same one, and there is
//! nothing more to keep. Each is sent under for [`LIFE`], and known to all for half of that before and half after, so that no sidecar meets a
//! digest under a key that it does not have:
//!
//! ```text
//!   sent under      ── 1 ──┼───── 2 ─────┼───── 3 ──
//!   also known        1  2 │ 1    │    3 │ 2    │  4
//! ```
//!
//! With a new root all keys are others; until every sidecar has heard of them digests are not understood, and prompts are placed without.

use std::time::Duration;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use penstock_delivery::proto::penstock::ca::v1::PrefixKey;
use time::OffsetDateTime;

/// Long enough that telling everything anew costs nothing, short enough that a key that leaked is worth little.
const LIFE: Duration = Duration::from_secs(24 * 3_600);

const SALT: &[u8] = b"penstock prefix digests";
const ID_BYTES: usize = 4;
const SECRET_BYTES: usize = 16;

/// What the keys of a trust domain follow from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    /// The authority's private key.
    pub(super) private_key: &'a [u8],
    pub(super) trust_domain: &'a str,
}

/// How many bytes are derived.
struct Bytes(usize);

impl KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

/// The key to send under, and the other one that is known.
pub(super) fn keys(source: Source<'_>, now: OffsetDateTime) -> Result<Vec<PrefixKey>, Unspecified> {
    let half = halves(now);
    let other = if half.is_multiple_of(2) { half / 2 - 1 } else { half / 2 + 1 };
    [half / 2, other].into_iter().map(|period| key(source, period)).collect()
}

/// How long these keys stay as they are.
pub(super) fn lasting(now: OffsetDateTime) -> Duration {
    let half_ns = (LIFE / 2).as_nanos();
    let over_ns = now.unix_timestamp_nanos().unsigned_abs() % half_ns;
    Duration::from_nanos(u64::try_from(half_ns - over_ns).unwrap_or(u64::MAX))
}

/// Half lives since 1970, beginning with one whole life.
fn halves(now: OffsetDateTime) -> u64 {
    let seconds = u64::try_from(now.unix_timestamp()).unwrap_or_default();
    2 + seconds / (LIFE.as_secs() / 2)
}

fn key(source: Source<'_>, period: u64) -> Result<PrefixKey, Unspecified> {
    let period = period.to_be_bytes();
    let about = [&period[..], source.trust_domain.as_bytes()];
    let mut bytes = [0; ID_BYTES + SECRET_BYTES];
    let derived = Salt::new(HKDF_SHA256, SALT).extract(source.private_key);
    derived.expand(&about, Bytes(bytes.len()))?.fill(&mut bytes)?;
    let (id, secret) = bytes.split_first_chunk::<ID_BYTES>().ok_or(Unspecified)?;
    Ok(PrefixKey { id: u32::from_be_bytes(*id), secret: secret.to_vec() })
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const MIDNIGHT: OffsetDateTime = datetime!(2026-11-21 00:00 UTC);
    const SOURCE: Source<'_> = Source { private_key: b"a private key", trust_domain: "mesh.test" };

    fn at(hours: f64) -> Vec<PrefixKey> {
        keys(SOURCE, MIDNIGHT + Duration::from_secs_f64(hours * 3_600.0)).unwrap()
    }

    #[test]
    fn a_key_is_known_before_it_is_sent_under_and_after() {
        let [today, tomorrow] = [at(1.0)[0].clone(), at(25.0)[0].clone()];
        let yesterday = at(1.0)[1].clone();
        for (hours, sending, also) in [
            (0.0, &today, &yesterday),
            (11.99, &today, &yesterday),
            (12.0, &today, &tomorrow),
            (23.99, &today, &tomorrow),
            (24.0, &tomorrow, &today),
            (35.99, &tomorrow, &today),
        ] {
            assert_eq!(at(hours), [sending.clone(), also.clone()], "{hours} h");
        }
        assert!(yesterday != today && today != tomorrow && yesterday != tomorrow);
        assert_eq!(today.secret.len(), SECRET_BYTES);
    }

    #[test]
    fn whoever_is_told_is_told_again_when_they_change() {
        for (hours, left_hours) in [(0.0, 12.0), (11.5, 0.5), (12.0, 12.0), (23.0, 1.0)] {
            let now = MIDNIGHT + Duration::from_secs_f64(hours * 3_600.0);
            let left = lasting(now);
            assert_eq!(left, Duration::from_secs_f64(left_hours * 3_600.0), "{hours} h");
            assert_eq!(keys(SOURCE, now), keys(SOURCE, now + left - Duration::from_nanos(1)));
            assert_ne!(keys(SOURCE, now), keys(SOURCE, now + left));
        }
        assert_eq!(lasting(OffsetDateTime::UNIX_EPOCH), LIFE / 2);
        assert_eq!(keys(SOURCE, OffsetDateTime::UNIX_EPOCH).unwrap().len(), 2);
    }

    #[test]
    fn every_replica_comes_to_the_same_and_no_other_domain_or_authority() {
        assert_eq!(at(3.0), at(3.0));
        let other_key = Source { private_key: b"another private key", ..SOURCE };
        let other_domain = Source { trust_domain: "mesh.example", ..SOURCE };
        for other in [other_key, other_domain] {
            let keys = keys(other, MIDNIGHT).unwrap();
            assert!(keys.iter().all(|key| at(0.0).iter().all(|ours| ours.secret != key.secret)));
        }
    }
}
