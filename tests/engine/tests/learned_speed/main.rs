//! What a sidecar learns of an engine's speed from the requests and chunks that cross it, against what the engine then does.
//!
//! The scheduler is driven by events. The learner is told nothing but when a request of how many tokens was sent on, when each chunk
//! came, and what `usage` said at the end; how much of a prompt is cached it is told as a sidecar guesses it: what was sent before.
//!
//! Two errors are taken for each of the requests 200 to 999, with the constants as they were known when it came:
//!
//! * *first token* and *token*: with what was in the steps beside it given, so that the error is that of the constants. Noise of
//!   sigma 0.05 alone makes 4 % of it where a prompt takes a single step.
//! * *forecast*: of the first token, from nothing but what was known when the request came. Prompts that came after it and into the
//!   same step are part of that error, so it is compared with the forecast of somebody who knows the true constants.

#[cfg(test)]
mod drive;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod traffic;
