//! A simulated model server with continuous batching.
//!
//! * [`scheduler`]: which tokens are computed in which step, and how long the step takes; pure, driven by a clock
//!   or by events.
//! * [`bpe`], [`text`]: words to tokens and back, and what the model says.
//! * [`server`]: OpenAI's API with vLLM's metrics over the scheduler, and faults to order.
//! * [`calibrate`]: the scheduler against published figures.

pub mod bpe;
pub mod calibrate;
pub mod clock;
mod mix;
pub mod scheduler;
pub mod server;
mod tasks;
pub mod text;
