//! What runs, where, and how far it is: the answer of `/v1/status`, and what `headwater status` shows.

use std::sync::Arc;

use headwater_engine::engine::Running;
use headwater_engine::status::TaskState;
use headwater_event::clock::Micros;
use headwater_event::offset::{TopicPartition, behind};
use headwater_log::Log;
use headwater_query::shared::Shared;
use headwater_schema::calendar::write_timestamp;
use serde::{Deserialize, Serialize};

use crate::cluster::roles::Role;
use crate::cluster::{Cluster, Process, View};
use crate::processor::Processor;

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The process that answers; `None` where it shares its log with no other.
    pub process: Option<Arc<str>>,
    /// The one that gives out the work.
    pub leader: Option<Arc<str>>,
    pub processes: Vec<Process>,
    pub queries: Vec<QueryStatus>,
    /// Those that the process that answers shows.
    #[serde(default)]
    pub views: Vec<ViewStatus>,
    pub sources: Vec<ConnectorStatus>,
    pub sinks: Vec<ConnectorStatus>,
    /// Why what runs isn't here, if it isn't: only processors know.
    #[serde(default)]
    pub unknown: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct QueryStatus {
    pub name: String,
    /// Why it doesn't run, if it doesn't.
    pub failure: Option<String>,
    pub tasks: Vec<Task>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ViewStatus {
    pub name: String,
    /// How far what is shown of it is behind what is stored; `None` before that is known.
    pub behind_seconds: Option<f64>,
}

/// A stage of a query on one partition.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    pub stage: usize,
    pub partition: u32,
    /// Which process has it.
    pub process: Option<Arc<str>>,
    pub state: String,
    /// The next offset that it reads.
    pub offset: u64,
    /// Offsets from there to the end of its input.
    pub lag: Option<u64>,
    /// RFC 3339, as is the other time.
    pub watermark: Option<String>,
    pub committed_at: Option<String>,
    pub restarts: u64,
}

/// A source or a sink.
#[derive(Debug, Serialize, Deserialize)]
pub struct ConnectorStatus {
    pub name: String,
    pub process: Option<Arc<str>>,
    /// As the process that answers knows it.
    pub state: String,
    /// Rows that a sink has yet to deliver.
    pub lag: Option<u64>,
    pub failure: Option<String>,
}

impl Status {
    pub async fn of(processor: &Processor, queries: &Shared, cluster: Option<&Cluster>) -> Self {
        let view = cluster.map(Cluster::view);
        let mut status = Self {
            process: cluster.map(|cluster| cluster.me.id.clone()),
            ..Self::default()
        };
        for (name, query) in processor.named_queries() {
            let (failure, tasks) = match query {
                Ok(running) => (None, tasks(&running, &*queries.parts.log, view.as_ref()).await),
                Err(failure) => (Some(failure), Vec::new()),
            };
            status.queries.push(QueryStatus { name, failure, tasks });
        }
        let snapshot = queries.parts.catalog.snapshot();
        let views = snapshot.iter().filter(|object| object.view().is_some());
        status.views.extend(views.map(|view| {
            ViewStatus {
                name: view.name.clone(),
                behind_seconds: queries
                    .freshness
                    .behind(view, queries)
                    .map(|behind| behind.as_secs_f64()),
            }
        }));
        for source in queries.parts.sources.status() {
            status.sources.push(ConnectorStatus {
                process: who(view.as_ref(), &source.owner),
                name: source.name,
                state: source.state.to_owned(),
                lag: None,
                failure: source.failure,
            });
        }
        for sink in queries.parts.sinks.status().await {
            status.sinks.push(ConnectorStatus {
                process: who(view.as_ref(), &sink.owner),
                name: sink.name,
                state: sink.state.to_owned(),
                lag: sink.lag,
                failure: sink.failure,
            });
        }
        if let Some(cluster) = cluster
            && !cluster.me.roles.has(Role::Processor)
        {
            let told = cluster.ask_leader("/v1/status").await;
            let told = told.and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()));
            match told {
                Ok(told) => status.take_over(told),
                Err(why) => status.unknown = Some(why),
            }
        }
        if let Some(view) = view {
            status.leader = view.leader;
            status.processes = view.processes.into_values().collect();
        }
        status
    }

    /// What runs, as a processor tells; of what this process does itself it knows better.
    fn take_over(&mut self, told: Self) {
        let me = self.process.clone();
        self.queries = told.queries;
        for (mine, all) in [(&mut self.sources, told.sources), (&mut self.sinks, told.sinks)] {
            mine.retain(|connector| connector.process == me);
            let others = all.into_iter().filter(|connector| connector.process != me);
            mine.extend(others);
            mine.sort_by(|a, b| a.name.cmp(&b.name));
        }
    }
}

async fn tasks(running: &Running, log: &dyn Log, view: Option<&View>) -> Vec<Task> {
    let stages = &running.pipeline().stages;
    let mut tasks = Vec::new();
    for (owner, task) in running.owners().zip(running.status()) {
        let input = stages.get(task.stage).map(|stage| Arc::clone(&stage.input.topic));
        let input = input.map(|topic| TopicPartition::new(topic, task.partition));
        let kept = match input {
            // The log says elsewhere what is wrong with it.
            Some(input) => log.offsets(&input).await.ok(),
            None => None,
        };
        let state = match task.state {
            TaskState::Starting => "starting".to_owned(),
            // As far as can be told from what it commits.
            TaskState::Running | TaskState::Elsewhere => "running".to_owned(),
            TaskState::Failing(why) => format!("failing: {why}"),
            TaskState::Failed(why) => format!("failed: {why}"),
            TaskState::Stopped => "stopped".to_owned(),
        };
        let process = who(view, &owner);
        tasks.push(Task {
            stage: task.stage,
            partition: task.partition,
            state: match view.is_some() && process.is_none() {
                true => "waiting for a process".to_owned(),
                false => state,
            },
            process,
            offset: task.offset,
            lag: kept.map(|kept| behind(&kept, task.offset)),
            watermark: task.watermark.map(text),
            committed_at: task.committed_at.map(text),
            restarts: task.restarts,
        });
    }
    tasks
}

/// The process that has an owner's work.
fn who(view: Option<&View>, owner: &str) -> Option<Arc<str>> {
    view?.owners.get(owner).cloned()
}

fn text(time: Micros) -> String {
    let mut text = Vec::new();
    write_timestamp(time, 1_000_000, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}
