//! Puts successors in the place of what they replace: see [`headwater_catalog::successor`].
//!
//! A group is swapped when all of it has come as far as its inputs, as near as can be: everything that they held when
//! it was last looked has been read, and that took no longer than [`BEHIND_MAX`]. If more comes than can be read, it
//! is when it no longer gains on its inputs. Where windows are among the queries, the watermark has come as far, too.
//!
//! The swap is one change of the catalog, so that it has happened or not, whenever the process ends.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use headwater_catalog::snapshot::Snapshot;
use headwater_catalog::store::Error as CatalogError;
use headwater_engine::engine::Running;
use tracing::{error, info};

use crate::processor::{Processor, Query};

/// How long those may go on that have begun to read what is replaced.
pub const READERS_PAUSE: Duration = Duration::from_secs(60);

/// How far behind its inputs a successor may be, in the time that it takes to read what has come.
const BEHIND_MAX: Duration = Duration::from_secs(1);

/// After the catalog could not be changed.
const RETRY: Duration = Duration::from_secs(1);

impl Processor {
    /// The names of the first group of successors that has caught up. Safe to cancel.
    pub(super) async fn next_built(&self, snapshot: &Snapshot) -> Vec<String> {
        let groups = snapshot.building().into_iter();
        let groups = groups.map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>());
        let mut built: FuturesUnordered<_> = groups
            .map(|names| async move {
                self.built(&names, snapshot).await;
                names
            })
            .collect();
        match built.next().await {
            Some(names) => names,
            None => std::future::pending().await,
        }
    }

    /// Makes the change. If it can't be made, whoever follows the catalog comes here again.
    pub(super) async fn swap(&self, snapshot: &Snapshot, names: &[String]) {
        match self.catalog.apply(snapshot.version, snapshot.swapped(names)).await {
            Ok(version) => info!(objects = names.join(", "), version, "replaced by what was built beside"),
            Err(CatalogError::Conflict { .. }) => {}
            Err(error) => {
                error!(objects = names.join(", "), %error, "what was built beside can't take its place yet");
                self.clock.sleep(RETRY).await;
            }
        }
    }

    /// Waits until the successors have taken their place that have nothing more to wait for; `false` if there are none.
    pub(super) async fn swapped(&self) -> bool {
        let mut catalog = self.catalog.subscribe();
        let snapshot = catalog.borrow_and_update().clone();
        let is_at_rest = |names: &Vec<&str>| {
            let queries = self.queries(names, &snapshot);
            queries.is_some_and(|queries| {
                let by_time = closes_by_time(&queries);
                queries.iter().all(|query| query.is_at_rest(by_time))
            })
        };
        if !snapshot.building().iter().any(is_at_rest) {
            return false;
        }
        let mut applied = self.applied.subscribe();
        // Both go on as long as the processor does.
        let _ = catalog.changed().await;
        let version = catalog.borrow().version;
        let _ = applied.wait_for(|applied| *applied >= version).await;
        true
    }

    /// Returns when the group has caught up. Never, if any of it can't run.
    async fn built(&self, names: &[String], snapshot: &Snapshot) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let Some(queries) = self.queries(&names, snapshot) else {
            return std::future::pending().await;
        };
        let by_time = closes_by_time(&queries);
        let mut before = Duration::MAX;
        loop {
            let started = self.clock.elapsed();
            self.reach_end(&queries, false).await;
            let took = self.clock.elapsed().saturating_sub(started);
            if took <= BEHIND_MAX || took >= before {
                break;
            }
            before = took;
        }
        if by_time {
            self.reach_end(&queries, true).await;
        }
    }

    async fn reach_end(&self, queries: &[Arc<Running>], by_time: bool) {
        for query in queries {
            if let Err(error) = query.reach_end(self.log.as_ref(), by_time).await {
                error!(query = &*query.pipeline().name, %error, "can't tell how far it has come");
                return std::future::pending().await;
            }
        }
    }

    /// The queries of a group as it will be, each after those that it reads from. Sinks have nothing to catch up with:
    /// they begin when they are in their place.
    fn queries(&self, names: &[&str], snapshot: &Snapshot) -> Option<Vec<Arc<Running>>> {
        let objects = self.objects.read();
        let mut ids: Vec<u64> = names
            .iter()
            .filter_map(|name| snapshot.get(name))
            .filter(|object| object.sink().is_none())
            .map(|object| object.latest().id)
            .collect();
        // What reads from an object is newer than that.
        ids.sort_unstable();
        let running = |id: u64| match &objects.get(&id)?.query {
            Query::Running(running) => Some(Arc::clone(running)),
            Query::None | Query::Source(_) | Query::Sink | Query::Failed(_) => None,
        };
        ids.into_iter().map(running).collect()
    }
}

fn closes_by_time(queries: &[Arc<Running>]) -> bool {
    queries.iter().any(|query| query.pipeline().closes_by_time())
}
