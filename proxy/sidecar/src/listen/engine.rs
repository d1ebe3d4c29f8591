//! pingora's proxy with our connector, without pingora's server.
//!
//! There is no public constructor for a proxy with a custom connector. What there is: a service that hands the proxy to a callback
//! when a stream arrives that is not HTTP/2. So the service is started once on a loopback socket of its own, one connection is
//! made to it, and everything after that goes through the proxy that the callback was given; the socket is closed again.

use std::os::fd::IntoRawFd;
use std::sync::Arc;

use anyhow::Context;
use futures::FutureExt;
use parking_lot::Mutex;
use pingora_core::apps::{HttpServerApp, HttpServerOptions};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{Fds, ShutdownWatch};
use pingora_core::services::Service as _;
use pingora_proxy::{HttpProxy, ProxyServiceBuilder};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};

use super::http2;
use crate::http::Hooks;
use crate::settings::Settings;
use crate::tasks::Tasks;
use crate::telemetry::Telemetry;
use crate::turn::OncePerTurn;
use crate::upstream::seam::Mesh;

/// First wait of a kept HTTP/1.1 connection for its next request, in seconds.
const KEEPALIVE_S: u64 = 75;

pub(super) type Proxy = HttpProxy<Hooks, Mesh>;

/// pingora.
#[derive(Clone)]
pub struct Engine {
    proxy: Arc<Proxy>,
    telemetry: Arc<Telemetry>,
    settings: Arc<Settings>,
    streams: Tasks,
}

impl Engine {
    /// Builds the proxy. The requests of HTTP/2 connections become tasks in `streams`.
    ///
    /// # Errors
    /// When no loopback socket can be had at start.
    pub async fn new(hooks: Hooks, mesh: Mesh, streams: Tasks) -> anyhow::Result<Self> {
        let settings = Arc::clone(&hooks.0.settings);
        let telemetry = Arc::clone(&hooks.0.telemetry);
        let (give, take) = oneshot::channel::<Arc<Proxy>>();
        let give = Mutex::new(Some(give));
        let on_custom = Arc::new(move |proxy: Arc<Proxy>, _stream: Stream, _stop: &ShutdownWatch| {
            if let Some(give) = give.lock().take() {
                // Fails when nobody waits any more, and then nobody needs it.
                drop(give.send(proxy));
            }
            async { None::<Stream> }.boxed()
        });
        let mut options = HttpServerOptions::default();
        options.force_custom = true;
        let conf = Arc::new(ServerConf::default());
        let mut service =
            ProxyServiceBuilder::new(&conf, hooks).custom(mesh, on_custom).server_options(options).build();

        let socket = std::net::TcpListener::bind(("127.0.0.1", 0))
            .context("no loopback socket can be had for the start of the HTTP engine")?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let mut fds = Fds::new();
        fds.add(address.to_string(), socket.into_raw_fd());
        service.add_tcp(&address.to_string());
        let (stop, stopped) = watch::channel(false);
        let fds = Arc::new(Mutex::new(fds));
        let starting = Tasks::default();
        starting.spawn("engine start", async move {
            service.start_service(Some(fds), stopped, 1).await;
        });
        let knock = TcpStream::connect(address).await.context("the HTTP engine did not start")?;
        let proxy = take.await.context("the HTTP engine did not start")?;
        drop(knock);
        // Cut first: a service that ends in an orderly way tells the proxy to shut down, and it would keep no connection alive.
        starting.cut();
        starting.all_ended().await;
        stop.send_replace(true);
        Ok(Self { proxy, telemetry, settings, streams })
    }

    /// Serves one connection to its end.
    pub async fn serve(&self, stream: Stream, is_http2: bool, stop: &ShutdownWatch) {
        if is_http2 {
            let settings = Arc::clone(&self.settings.load());
            let terms = http2::Terms { limits: &settings.limits, telemetry: &self.telemetry };
            let serving = http2::serve(&self.proxy, stream, terms, &self.streams, stop);
            return OncePerTurn::new(serving).await;
        }
        let mut session = ServerSession::new_http1(stream);
        session.set_keepalive(Some(KEEPALIVE_S));
        session.set_pipelining_enabled(true);
        let mut next = self.proxy.process_new_http(session, stop).await;
        while let Some((stream, kept)) = next.map(|reused| reused.consume()) {
            let mut session = ServerSession::new_http1(stream);
            if let Some(kept) = kept {
                kept.apply_to_session(&mut session);
            }
            next = self.proxy.process_new_http(session, stop).await;
        }
    }

    /// Ends idle HTTP/1.1 connections. HTTP/2 ones end by the stop signal.
    pub async fn end_idle(&self) {
        self.proxy.http_cleanup().await;
    }
}
