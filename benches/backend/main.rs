//! `penstock-backend`: a server that is no bottleneck, on one thread.
//!
//! HTTP/1.1, and at a port of its own HTTP/2 without TLS. The query says what is asked for:
//!
//! * nothing: a few bytes; over HTTP/2 a unary call as gRPC makes it, with trailers.
//! * `chunks=N&interval_us=I`: a stream of N events, the first one I microseconds after the request; with `chunks=0` one event and
//!   then nothing until the client leaves.
//! * `ask=silence`: no answer until the client leaves.
//! * `bytes=N`: so many bytes of a known pattern. `ask=compare`: whether the request's body is that pattern.
//! * `ask=counts`: how many requests are open, were answered to the end, were left by the client.
//!
//! Says where it listens in its first line.

mod asked;
mod counts;
mod http1;
mod http2;
mod pacer;

use std::cell::OnceCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, LocalSet};

use penstock_benches::limits;
use penstock_benches::pattern::{Arrived, Pattern};

use asked::Asked;
use counts::{Counts, Open};
use pacer::Pacer;

/// What all connections share.
#[derive(Clone, Debug)]
struct Common {
    pacer: Pacer,
    counts: Counts,
    pattern: Rc<OnceCell<Rc<Pattern>>>,
}

impl Common {
    /// Counts a request, unless it asks for the counts.
    fn begin(&self, asked: Asked) -> Option<Open> {
        (asked != Asked::Counts).then(|| self.counts.begin())
    }

    /// Made when it is first needed.
    fn pattern(&self) -> Rc<Pattern> {
        Rc::clone(self.pattern.get_or_init(Rc::default))
    }
}

/// What is told of an upload.
fn verdict(arrived: &Arrived) -> String {
    serde_json::json!({"bytes": arrived.bytes, "wrong_at": arrived.wrong_at}).to_string()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    limits::raise_descriptors()?;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (h1, h2) = (TcpListener::bind(any).await?, TcpListener::bind(any).await?);
    announce(h1.local_addr()?, h2.local_addr()?);
    LocalSet::new().run_until(serve(h1, h2)).await
}

#[expect(clippy::print_stdout, reason = "the first line says where it listens")]
fn announce(h1: SocketAddr, h2: SocketAddr) {
    println!("{}", serde_json::json!({"listening": {"h1": h1, "h2": h2}}));
}

async fn serve(h1: TcpListener, h2: TcpListener) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    let common =
        Common { pacer: pacer::start(&mut tasks)?, counts: Counts::default(), pattern: Rc::default() };
    loop {
        tokio::select! {
            accepted = h1.accept() => {
                tasks.spawn_local(http1::serve(prompt(accepted?.0)?, common.clone()));
            }
            accepted = h2.accept() => {
                tasks.spawn_local(http2::serve(prompt(accepted?.0)?, common.clone()));
            }
            // Connections end as clients please.
            Some(_) = tasks.join_next() => {}
        }
    }
}

fn prompt(stream: TcpStream) -> std::io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    Ok(stream)
}
