//! What every reader of a message needs: an error that knows its field, and the shapes that all messages share.

use std::net::SocketAddr;
use std::time::Duration;

use penstock_model::names::ObjectName;

use super::text;
use crate::proto::penstock::v1;

/// Protobuf's own limit for a `Duration`, 10,000 years.
const DURATION_SECONDS_MAX: u64 = 315_576_000_000;

/// Something that a message must not hold, with the way to it.
#[derive(Debug)]
pub(super) struct Misfit {
    /// Empty for the message as a whole.
    pub(super) field: String,
    /// Continues a sentence that begins with the field.
    pub(super) problem: String,
}

impl Misfit {
    pub(super) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    pub(super) fn whole(problem: impl Into<String>) -> Self {
        Self::new("", problem)
    }

    /// The same, seen from the message that holds this one as `outer`.
    fn inside(mut self, outer: &str) -> Self {
        self.field = if self.field.is_empty() { outer.to_owned() } else { format!("{outer}.{}", self.field) };
        self
    }
}

/// Says in which field of the message at hand the result was made.
pub(super) trait Inside<T> {
    fn inside(self, field: &str) -> Result<T, Misfit>;
}

impl<T> Inside<T> for Result<T, Misfit> {
    fn inside(self, field: &str) -> Result<T, Misfit> {
        self.map_err(|misfit| misfit.inside(field))
    }
}

/// A field without which the message makes no sense.
pub(super) fn needed<T>(field: &str, value: Option<T>) -> Result<T, Misfit> {
    value.ok_or_else(|| Misfit::new(field, "is missing, or of a kind that this version does not know"))
}

/// A message that must be there.
pub(super) fn nested<M, T>(
    field: &str,
    value: Option<M>,
    read: impl FnOnce(M) -> Result<T, Misfit>,
) -> Result<T, Misfit> {
    read(needed(field, value)?).inside(field)
}

/// A message that may be there.
pub(super) fn optional<M, T>(
    field: &str,
    value: Option<M>,
    read: impl FnOnce(M) -> Result<T, Misfit>,
) -> Result<Option<T>, Misfit> {
    value.map(read).transpose().inside(field)
}

/// Every message of a list.
pub(super) fn each<M, T>(
    field: &str,
    values: Vec<M>,
    read: impl Fn(M) -> Result<T, Misfit>,
) -> Result<Vec<T>, Misfit> {
    let in_place = |(i, value)| read(value).map_err(|misfit| misfit.inside(&format!("{field}[{i}]")));
    values.into_iter().enumerate().map(in_place).collect()
}

/// An enum value that this version knows. The caller still refuses the zero value, with [`unset`].
pub(super) fn known<E: TryFrom<i32>>(field: &str, number: i32) -> Result<E, Misfit> {
    E::try_from(number).map_err(|_| Misfit::new(field, format!("has the value {number}, which is not known")))
}

/// An enum that was left at zero.
pub(super) fn unset(field: &str) -> Misfit {
    Misfit::new(field, "is not set")
}

pub(super) fn at_most(field: &str, value: u32, most: u32) -> Result<u32, Misfit> {
    if value > most { Err(Misfit::new(field, format!("is {value}, more than {most}"))) } else { Ok(value) }
}

pub(super) fn port(field: &str, value: Option<u32>) -> Result<Option<u16>, Misfit> {
    let narrow = |wide: u32| match u16::try_from(wide) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Misfit::new(field, format!("is {wide}, not a port from 1 to 65535"))),
    };
    value.map(narrow).transpose()
}

pub(super) fn address(field: &str, value: &str) -> Result<SocketAddr, Misfit> {
    value.parse().map_err(|_| {
        Misfit::new(field, format!("is `{}`, not an address such as 10.0.0.1:8000", value.escape_debug()))
    })
}

pub(super) fn write_name(name: &ObjectName) -> Option<v1::ObjectName> {
    Some(v1::ObjectName { namespace: name.namespace.to_string(), name: name.name.to_string() })
}

pub(super) fn read_name(message: v1::ObjectName) -> Result<ObjectName, Misfit> {
    text::dns_name("namespace", &message.namespace)?;
    text::dns_name("name", &message.name)?;
    Ok(ObjectName::new(message.namespace, message.name))
}

/// Spans beyond protobuf's 10,000 years, which no document can hold, are cut to that.
pub(super) fn write_duration(span: Duration) -> prost_types::Duration {
    let seconds = span.as_secs().min(DURATION_SECONDS_MAX);
    prost_types::Duration {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or_default(),
    }
}

pub(super) fn read_duration(message: prost_types::Duration) -> Result<Duration, Misfit> {
    let prost_types::Duration { seconds, nanos } = message;
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(whole), Ok(rest)) if whole <= DURATION_SECONDS_MAX && rest < 1_000_000_000 => {
            Ok(Duration::new(whole, rest))
        }
        _ => Err(Misfit::whole(format!("is {seconds} s and {nanos} ns, not a duration of zero or more"))),
    }
}
