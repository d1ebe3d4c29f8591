//! What the process says on standard error, and how much of it.

use std::fmt;
use std::sync::Arc;

use anyhow::{Context, bail};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The log of the process: it starts by the command line, and follows the settings.
#[derive(Clone)]
pub struct Log {
    default: String,
    set: Arc<dyn Fn(EnvFilter) -> anyhow::Result<()> + Send + Sync>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({})", self.default)
    }
}

impl Log {
    /// Begins to write.
    ///
    /// # Errors
    /// When `default` is no filter, or the process has a log already.
    pub fn start(default: &str) -> anyhow::Result<Self> {
        let filter = filter(default)?;
        let writer = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        let writer = writer.with_filter_reloading();
        let handle = writer.reload_handle();
        writer.try_init().map_err(|error| anyhow::anyhow!("the process has a log already: {error}"))?;
        let set = Arc::new(move |filter| handle.reload(filter).context("the log cannot be changed"));
        Ok(Self { default: default.to_owned(), set })
    }

    /// Writes what the settings say; what the command line says where they say nothing.
    ///
    /// # Errors
    /// When that is no filter.
    pub fn set(&self, level: Option<&str>) -> anyhow::Result<()> {
        (self.set)(filter(level.unwrap_or(&self.default))?)
    }
}

/// A word alone is a level: a target alone would silence everything else, which is what a slip of the pen would do.
fn filter(text: &str) -> anyhow::Result<EnvFilter> {
    let help = "write error, warn, info, debug, trace or off, or a filter such as `info,h2=debug`";
    for part in text.split(',') {
        let is_level = part.trim().parse::<LevelFilter>().is_ok() && !part.trim().is_empty();
        if !is_level && !part.contains(['=', '[']) {
            bail!("`{part}` in the log level `{text}` is no level: {help}");
        }
    }
    EnvFilter::try_new(text).with_context(|| format!("the log level `{text}` is no filter: {help}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_taken_and_a_slip_of_the_pen_is_not() {
        for (text, expected) in [
            ("info", ""),
            ("off", ""),
            ("WARN", ""),
            ("info,h2=debug", ""),
            ("penstock_proxy::sync=trace", ""),
            ("inof", "`inof` in the log level `inof` is no level"),
            ("info,h2", "`h2` in the log level"),
            ("", "`` in the log level `` is no level"),
            ("info,", "`` in the log level"),
            ("info,h2=loud", "is no filter"),
        ] {
            let told = filter(text).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(told.contains(expected) && told.is_empty() == expected.is_empty(), "{text}: {told}");
        }
    }
}
