//! Other routers, as their packages install them.

use std::net::SocketAddr;
use std::path::Path;

use clap::ValueEnum;
use penstock_benches::child::{Child, Start, free_address};
use penstock_benches::place::Place;
use penstock_simulate::policy::Policy;

use crate::ask::MODEL;

/// A router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rival {
    /// SGLang's, with its default policy, which prefers caches
    SglangRouter,
    /// vLLM's, with its default policy
    VllmRouter,
}

impl Rival {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SglangRouter => "sglang-router",
            Self::VllmRouter => "vllm-router",
        }
    }

    /// Its rule in the simulator, where that has it.
    pub(crate) fn policy(self) -> Option<Policy> {
        match self {
            Self::SglangRouter => Some(Policy::Sglang),
            Self::VllmRouter => None,
        }
    }

    /// Where it says that it is ready.
    pub(crate) fn page(self) -> &'static str {
        "/readiness"
    }

    /// Starts it in front of these engines, on a core of its own choice.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(
        self,
        place: &Place,
        programs: &Path,
        engines: &[SocketAddr],
        dir: &Path,
    ) -> anyhow::Result<(Child, SocketAddr)> {
        let (at, metrics) = (free_address()?, free_address()?);
        let (command, level) = match self {
            Self::SglangRouter => (Some("launch"), "warn"),
            Self::VllmRouter => (None, "warning"),
        };
        let mut arguments: Vec<String> = command.into_iter().map(str::to_owned).collect();
        let own = [
            ("--host", at.ip().to_string()),
            ("--port", at.port().to_string()),
            ("--prometheus-host", metrics.ip().to_string()),
            ("--prometheus-port", metrics.port().to_string()),
            ("--log-level", level.to_owned()),
        ];
        arguments.extend(own.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        arguments.push("--worker-urls".to_owned());
        arguments.extend(engines.iter().map(|engine| format!("http://{engine}")));
        let program = std::path::absolute(programs.join(self.name()))?;
        let start = Start { name: self.name(), program: &program, core: place.proxy_core, dir };
        Ok((Child::start(start, &arguments)?, at))
    }
}

/// A request that shows whether it answers for the engines.
pub(crate) fn probe(at: SocketAddr) -> Vec<u8> {
    let body =
        format!(r#"{{"model":"{MODEL}","max_tokens":1,"messages":[{{"role":"user","content":"?"}}]}}"#);
    penstock_benches::h1::post(at, "/v1/chat/completions", &body)
}
