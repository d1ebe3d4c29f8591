//! The caller's sidecar with many backends: before any request, while the reports of all are heard and nothing happens, and when they are
//! not heard any more.

use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::sleep;

use penstock_benches::place::Place;

use crate::flags::{Asked, Side};
use crate::result::{Caller, Used};
use crate::stand::{Ask, Stand};

/// What belongs to the start is over after this.
const SETTLE: Duration = Duration::from_secs(3);
/// Reports are heard for a minute after the last request.
const FOLLOWED_MAX: Duration = Duration::from_secs(30);
/// Short enough to be answered at once.
const ASK: Ask = Ask { repetitions: 4, answer_tokens: 4 };

/// Measures it.
///
/// # Errors
/// When something does not come up, or not every backend answers.
pub(crate) async fn measure(place: &Place, asked: &Asked) -> anyhow::Result<Caller> {
    let dir = tempfile::Builder::new().prefix("penstock-idle-").tempdir()?;
    let stand = Rc::new(Stand::start(place, asked.backends, Side::Caller, dir.path()).await?);
    sleep(SETTLE).await;
    let configured = Stand::used(&stand.caller, sleep(asked.seconds)).await?;
    let backends = u64::from(asked.backends);
    ask_all(&stand, asked.backends).await?;
    // A stream of reports and a connection for each.
    let all_followed = |tasks: u64| tasks >= configured.tasks + 2 * backends;
    Stand::until(&stand.caller, "not every endpoint is followed", all_followed).await?;
    let followed = Stand::used(&stand.caller, sleep(asked.seconds.min(FOLLOWED_MAX))).await?;
    let left = if asked.brief { None } else { Some(left(&stand, &followed, asked).await?) };
    let stand = Rc::try_unwrap(stand).ok().context("a request is still under way")?;
    stand.end().await?;
    Ok(Caller { backends: asked.backends, configured, followed, left })
}

/// When the reports of none are heard any more, which takes a minute.
async fn left(stand: &Stand, followed: &Used, asked: &Asked) -> anyhow::Result<Used> {
    let none_followed = |tasks: u64| tasks + u64::from(asked.backends) <= followed.tasks;
    Stand::until(&stand.caller, "endpoints are still followed", none_followed).await?;
    Stand::used(&stand.caller, sleep(asked.seconds)).await
}

/// One request to each backend, all at once.
async fn ask_all(stand: &Rc<Stand>, backends: u8) -> anyhow::Result<()> {
    let mut asking = JoinSet::new();
    for backend in 0..usize::from(backends) {
        let stand = Rc::clone(stand);
        asking.spawn_local(async move { stand.chat(backend, backend as u64, ASK).await });
    }
    while let Some(asked) = asking.join_next().await {
        asked??;
    }
    Ok(())
}
