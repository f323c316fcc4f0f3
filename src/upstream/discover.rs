//! Endpoints that have to be asked for: what their sources say now or, while one says nothing, the last that it said.

use super::Service;
use super::clock::{ms, now};
use super::names::{Answered, Names};
use super::source::{Member, Source};
use super::states::ServiceState;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// After a question without an answer.
const REST: Duration = Duration::from_secs(5);
/// The same while nothing has ever been said.
const REST_AT_FIRST: Duration = Duration::from_secs(1);
/// Between two looks at whether a file has changed.
const LOOK: Duration = Duration::from_secs(1);
/// How long a start may take, over all services.
const PATIENCE_AT_START: Duration = Duration::from_secs(2);

/// What a source last said, and whether it says anything now.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Heard {
    pub members: Vec<Member>,
    /// When it last said something, in `now`'s time; 0 for never.
    pub at: u64,
    /// When it is to be asked again, likewise.
    due: u64,
    /// Why it says nothing now.
    pub problem: Option<String>,
    /// Questions without an answer.
    pub failures: u64,
}

impl Heard {
    fn take(&mut self, answer: Result<Answered<Vec<Member>>, String>) {
        let now = now();
        match answer {
            Ok(Answered { found, lasts }) => {
                (self.members, self.at, self.problem) = (found, now, None);
                self.due = now + ms(lasts);
            }
            Err(why) => {
                self.problem = Some(why);
                self.failures += 1;
                self.due = now + ms(if self.at == 0 { REST_AT_FIRST } else { REST });
            }
        }
    }
}

/// A source as the operator is told of it.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Such as `dns:orders.internal:8000`.
    pub source: String,
    pub found: usize,
    /// Since it last said something.
    pub age: Option<Duration>,
    pub problem: Option<String>,
    pub failures: u64,
}

/// All sources of a service.
pub fn told(service: &Service) -> Vec<Finding> {
    let of_source = |source: &Source| {
        let heard = service.pool.state.heard(source);
        let age = (heard.at > 0).then(|| Duration::from_millis(now().saturating_sub(heard.at)));
        Finding { source: source.to_string(), found: heard.members.len(), age, problem: heard.problem, failures: heard.failures }
    };
    service.pool.sources().iter().map(of_source).collect()
}

/// Asks a service's sources, each when its answer ends, for as long as it is polled.
pub async fn watch(service: Arc<Service>) {
    service.pool.state.hear_only(service.pool.sources());
    let sources = service.pool.sources().to_vec();
    join_all(sources.into_iter().map(|source| watch_one(service.clone(), source))).await;
}

async fn watch_one(service: Arc<Service>, source: Source) {
    let (state, source) = (&service.pool.state, &source);
    // A file may have changed since it was first read: it is read once more.
    let mut stamp = super::source::Stamp::default();
    loop {
        until_due(source, state, &mut stamp).await;
        let before = state.heard(source).problem;
        let answer = source.ask(&service.names).await;
        let problem = answer.as_ref().err().cloned();
        state.hear(source, |heard| heard.take(answer));
        match &problem {
            Some(why) if problem != before => log::warn!("{source} of {}: what is known goes on: {why}", service.name),
            None if before.is_some() => log::info!("{source} of {} answers again", service.name),
            Some(_) | None => {}
        }
        if problem.is_none() && service.pool.refresh() {
            log::info!("{} has {} endpoints now, by {source}", service.name, service.pool.set().endpoints.len());
        }
    }
}

/// Waits until a source is to be asked again: its answer ends or, of a file, it changes.
async fn until_due(source: &Source, state: &ServiceState, stamp: &mut super::source::Stamp) {
    loop {
        let left = Duration::from_millis(state.heard(source).due.saturating_sub(now()));
        if left.is_zero() {
            return;
        }
        sleep(if source.is_file() { left.min(LOOK) } else { left }).await;
        if source.is_file() {
            let asked = source.clone();
            // The disk may be slow.
            let is = tokio::task::spawn_blocking(move || asked.stamp()).await.unwrap_or_default();
            if is != *stamp {
                *stamp = is;
                return;
            }
        }
    }
}

/// Asks all these sources now, side by side, but waits no longer than a start may take. Not asked is who is known to have said
/// something; what a file says is always read.
pub fn ask_first(services: &[(Arc<ServiceState>, Vec<Source>)], names: &Names) {
    let all = services.iter().flat_map(|(state, sources)| sources.iter().map(move |source| (state, source)));
    let unknown: Vec<_> = all.filter(|(state, source)| source.is_file() || state.heard(source).at == 0).collect();
    if unknown.is_empty() {
        return;
    }
    let names = names.again();
    let ask = |(state, source): (&Arc<ServiceState>, &Source)| {
        let (names, state, source) = (&names, state.clone(), source.clone());
        async move {
            let answer = timeout(PATIENCE_AT_START, source.ask(names)).await;
            let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE_AT_START.as_secs())));
            state.hear(&source, |heard| heard.take(answer));
        }
    };
    // The thread may serve a runtime already, which could not wait.
    std::thread::scope(|scope| {
        scope.spawn(|| match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                runtime.block_on(join_all(unknown.into_iter().map(ask)));
                // A disk that doesn't answer is not waited for.
                runtime.shutdown_background();
            }
            Err(e) => log::error!("names can't be resolved: {e}"),
        });
    });
}
