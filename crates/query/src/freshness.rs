//! How far what this process shows of views is behind what is stored, in time.
//!
//! Every second a view is asked whether it has taken in all that its streams hold by then ([`Lineage::pass`]). How long that takes, or has
//! taken so far, is the answer: about nothing where all is well, and it grows where a query, a process or the log does not get on.
//! It counts through all queries on the way. Where tasks run elsewhere it is what this process knows of their commits.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use headwater_catalog::definition::Definition;
use headwater_event::offset::{TopicPartition, to_reach};
use headwater_event::stored::Stored;
use headwater_log::Log;
use headwater_telemetry::metrics::VIEW_BEHIND_SECONDS;
use metrics::gauge;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::QueryError;
use crate::shared::Shared;
use crate::taken_in::{Known, Lineage};

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is known of each view, by its id.
#[derive(Debug, Default)]
pub struct Freshness {
    views: Mutex<HashMap<u64, View>>,
    /// The names that gauges were set for.
    told: Mutex<BTreeSet<String>>,
}

#[derive(Debug, Default)]
struct View {
    /// Since when something is waited for.
    waits: Option<Duration>,
    /// How long the last time took.
    took: Option<Duration>,
    /// What it has taken in.
    passed: Stored,
}

/// The ends of partitions, by their topic, as of one look.
type Ends = HashMap<Arc<str>, Vec<u64>>;

impl Freshness {
    /// How far a view is behind; `None` before it is known.
    pub fn behind(&self, view: &Definition, shared: &Shared) -> Option<Duration> {
        let now = shared.parts.clock.elapsed();
        let views = self.views.lock();
        let known = views.get(&view.id)?;
        let waits = known.waits.map(|since| now.saturating_sub(since));
        match known.took {
            Some(took) => Some(waits.map_or(took, |waits| waits.max(took))),
            None => waits,
        }
    }

    /// Brings the gauges up to date.
    pub fn publish(&self, shared: &Shared) {
        let snapshot = shared.parts.catalog.snapshot();
        let mut gone = std::mem::take(&mut *self.told.lock());
        let mut told = BTreeSet::new();
        for view in snapshot.iter().filter(|object| object.view().is_some()) {
            if let Some(behind) = self.behind(view, shared) {
                gauge!(VIEW_BEHIND_SECONDS, "view" => view.name.clone()).set(behind.as_secs_f64());
                gone.remove(&view.name);
                told.insert(view.name.clone());
            }
        }
        for name in gone {
            gauge!(VIEW_BEHIND_SECONDS, "view" => name).set(0.0);
        }
        *self.told.lock() = told;
    }

    /// Whether all of it is there already; else it is waited for from now on, or still.
    fn begin(&self, view: u64, ends: &Stored, now: Duration) -> bool {
        let mut views = self.views.lock();
        let view = views.entry(view).or_default();
        let is_there = view.passed.covers(ends) && view.took.is_some();
        match is_there {
            true => view.took = Some(Duration::ZERO),
            false => {
                view.waits.get_or_insert(now);
            }
        }
        is_there
    }

    fn end(&self, view: u64, ends: &Stored, now: Duration) {
        if let Some(view) = self.views.lock().get_mut(&view) {
            view.took = view.waits.take().map(|since| now.saturating_sub(since));
            view.passed.merge(ends);
        }
    }
}

/// Keeps what is known current.
pub async fn follow(shared: Arc<Shared>, stop: CancellationToken) {
    let mut under_way = HashMap::new();
    let mut looks = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = shared.parts.clock.sleep(LOOK_EVERY) => {}
        }
        while looks.try_join_next().is_some() {}
        let snapshot = shared.parts.catalog.snapshot();
        let views: Vec<_> = snapshot.iter().filter(|object| object.view().is_some()).collect();
        let is_there = |id: u64| views.iter().any(|view| view.id == id);
        shared.freshness.views.lock().retain(|&id, _| is_there(id));
        under_way.retain(|&id, look: &mut tokio::task::AbortHandle| {
            if !is_there(id) {
                look.abort();
            }
            !look.is_finished()
        });
        let mut ends = Ends::new();
        for &view in &views {
            if under_way.contains_key(&view.id) {
                continue;
            }
            match begin(&shared, view, &mut ends).await {
                Ok(None) => {}
                Ok(Some((known, stored))) => {
                    let look = looks.spawn(look(Arc::clone(&shared), view.id, known, stored));
                    under_way.insert(view.id, look);
                }
                Err(error) => tracing::debug!(view = view.name, %error, "how far a view is behind can't be told"),
            }
        }
    }
}

/// What has to be waited for, if there is anything.
async fn begin(
    shared: &Shared,
    view: &Arc<Definition>,
    ends: &mut Ends,
) -> Result<Option<(Arc<Known>, Stored)>, QueryError> {
    let known = shared.lineages.get(shared, view).await?;
    let now = shared.parts.clock.elapsed();
    let stored = stored(&known.lineage, shared.parts.log.as_ref(), ends).await?;
    let is_there = shared.freshness.begin(view.id, &stored, now);
    Ok((!is_there).then_some((known, stored)))
}

/// All that the streams of a lineage hold.
async fn stored(lineage: &Lineage, log: &dyn Log, ends: &mut Ends) -> Result<Stored, QueryError> {
    let mut stored = Stored::default();
    for (id, topic, partitions) in lineage.sources() {
        if !ends.contains_key(topic) {
            let mut of_topic = Vec::new();
            for partition in 0..partitions {
                let kept = log.offsets(&TopicPartition::new(Arc::clone(topic), partition)).await?;
                of_topic.push(to_reach(&kept));
            }
            ends.insert(Arc::clone(topic), of_topic);
        }
        for (partition, &end) in (0..).zip(ends.get(topic).into_iter().flatten()) {
            if end > 0 {
                stored.note(id, partition, end);
            }
        }
    }
    Ok(stored)
}

async fn look(shared: Arc<Shared>, view: u64, known: Arc<Known>, stored: Stored) {
    let (log, clock) = (shared.parts.log.as_ref(), shared.parts.clock.as_ref());
    match known.lineage.pass(log, clock, &stored).await {
        Ok(()) => shared.freshness.end(view, &stored, clock.elapsed()),
        // It goes on waiting with the next look.
        Err(error) => tracing::debug!(view, %error, "how far a view is behind can't be told"),
    }
}
