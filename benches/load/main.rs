//! `penstock-load`: requests without pause or at a rate, streams, and streams that stay open.
//!
//! ```text
//! penstock-load --target 127.0.0.1:8080 h1 --connections 64               closed loop: the next when the last has ended
//! penstock-load --target 127.0.0.1:8080 h1 --connections 64 --rate 2000   open loop: due every 0.5 ms, whatever the server does
//! penstock-load --target 127.0.0.1:8080 sse --streams 64 --chunks 200 --interval 20ms
//! ```
//!
//! Writes one JSON object a line: `{"phase":"begin"}` when the warm-up is over, `{"phase":"end"}`, and the result. In
//! between stands what is measured; who measures CPU reads it at these two lines.

mod flags;
mod idle;
mod pace;
mod small;
mod streams;
mod tally;
mod unary;

use clap::Parser;
use tokio::task::LocalSet;

use penstock_benches::limits;

use flags::{Flags, Kind};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    limits::raise_descriptors()?;
    let work = async {
        match &flags.kind {
            Kind::H1(asked) => small::run(&flags, asked).await,
            Kind::H2(asked) => unary::run(&flags, asked).await,
            Kind::Sse(asked) => streams::run(&flags, asked).await,
            Kind::Idle(asked) => idle::run(&flags, asked).await,
        }
    };
    let report = LocalSet::new().run_until(work).await?;
    tally::say(&serde_json::to_value(report)?);
    Ok(())
}
