//! `penstock-backend`: a server that is no bottleneck, on one thread.
//!
//! * HTTP/1.1: `GET` anything is answered with a few bytes. `POST …?chunks=N&interval_us=I` is answered with a stream of N
//!   events, the first one I microseconds after the request; with `chunks=0` by one event and then nothing until the client leaves.
//! * HTTP/2 without TLS, at a port of its own: a unary call as gRPC makes it, with trailers.
//!
//! Says where it listens in its first line.

mod http1;
mod http2;
mod pacer;

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, LocalSet};

use penstock_benches::limits;

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
    let pacer = pacer::start(&mut tasks)?;
    loop {
        tokio::select! {
            accepted = h1.accept() => {
                let pacer = pacer.clone();
                tasks.spawn_local(http1::serve(prompt(accepted?.0)?, pacer));
            }
            accepted = h2.accept() => {
                tasks.spawn_local(http2::serve(prompt(accepted?.0)?));
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
