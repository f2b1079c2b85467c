//! The metrics: their names, what they mean, and the text that Prometheus reads.
//!
//! The parts count with the macros of the crate `metrics` under the names below; a name that more
//! than one crate knows, or that a dashboard shows, is listed here with its description.

use std::sync::OnceLock;
use std::time::Duration;

use headwater_event::clock::Clock;
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;

pub const HTTP_REQUESTS: &str = "headwater_http_requests_total";
pub const HTTP_REQUEST_SECONDS: &str = "headwater_http_request_seconds";

pub const GRPC_REQUESTS: &str = "headwater_grpc_requests_total";
pub const GRPC_REQUEST_SECONDS: &str = "headwater_grpc_request_seconds";

pub const INGEST_EVENTS: &str = "headwater_ingest_events_total";
pub const INGEST_BYTES: &str = "headwater_ingest_bytes_total";
pub const INGEST_DUPLICATES: &str = "headwater_ingest_duplicates_total";
pub const INGEST_ERRORS: &str = "headwater_ingest_errors_total";
pub const INGEST_SECONDS: &str = "headwater_ingest_seconds";
pub const INGEST_QUEUE_BYTES: &str = "headwater_ingest_queue_bytes";
pub const DEAD_LETTERS: &str = "headwater_dead_letters_total";

pub const SOURCE_EVENTS: &str = "headwater_source_events_total";
pub const SOURCE_ERRORS: &str = "headwater_source_errors_total";

pub const SINK_ROWS: &str = "headwater_sink_rows_total";
pub const SINK_MISSED_ROWS: &str = "headwater_sink_missed_rows_total";
pub const SINK_ERRORS: &str = "headwater_sink_errors_total";
pub const SINK_LAG_ROWS: &str = "headwater_sink_lag_rows";

pub const LOOKUP_KEYS: &str = "headwater_lookup_keys_total";
pub const LOOKUP_ASKED_KEYS: &str = "headwater_lookup_asked_keys_total";
pub const LOOKUP_ERRORS: &str = "headwater_lookup_errors_total";

pub const LOG_COMMIT_SECONDS: &str = "headwater_log_commit_seconds";
pub const LOG_BYTES: &str = "headwater_log_bytes";

pub const TASK_LAG_ROWS: &str = "headwater_task_lag_rows";
pub const TASK_WATERMARK_DELAY_SECONDS: &str = "headwater_task_watermark_delay_seconds";
pub const TASK_ROWS: &str = "headwater_task_rows_total";
pub const LATE_ROWS: &str = "headwater_late_rows_total";
pub const COMMIT_SECONDS: &str = "headwater_commit_seconds";
pub const STATE_BYTES: &str = "headwater_state_bytes";

pub const VIEW_BEHIND_SECONDS: &str = "headwater_view_behind_seconds";

/// From a memory access to a request that somebody has given up on.
const SECONDS: [f64; 16] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];
const COUNTS: [f64; 12] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
];

/// Histograms collect single values until somebody takes them in; this often is soon enough.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Renders the metrics of the process.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

static INSTALLED: OnceLock<Metrics> = OnceLock::new();
static INSTALLING: Mutex<()> = Mutex::new(());

/// Begins to collect metrics. There is one collection per process: a second call gets the first's.
pub fn install() -> Result<Metrics, BuildError> {
    let _one_at_a_time = INSTALLING.lock();
    if let Some(installed) = INSTALLED.get() {
        return Ok(installed.clone());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_events".to_owned()), &COUNTS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &COUNTS)?
        .build_recorder();
    let installed = Metrics {
        handle: recorder.handle(),
    };
    metrics::set_global_recorder(recorder)?;
    describe();
    Ok(INSTALLED.get_or_init(|| installed).clone())
}

impl Metrics {
    /// The text format of Prometheus.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Keeps the memory that histograms take bounded while nobody asks for the metrics. Runs until
    /// it is dropped.
    pub async fn upkeep(&self, clock: &dyn Clock) {
        loop {
            clock.sleep(UPKEEP_INTERVAL).await;
            self.handle.run_upkeep();
        }
    }
}

fn describe() {
    describe_http_and_ingest();
    describe_log_and_tasks();
}

fn describe_http_and_ingest() {
    describe_counter!(HTTP_REQUESTS, "HTTP requests answered, by route and status");
    describe_histogram!(HTTP_REQUEST_SECONDS, Unit::Seconds, "Time to answer an HTTP request");
    describe_counter!(GRPC_REQUESTS, "gRPC calls answered, by method and code");
    describe_histogram!(
        GRPC_REQUEST_SECONDS,
        Unit::Seconds,
        "Time of a gRPC call, to the end of its answer"
    );
    describe_counter!(INGEST_EVENTS, "Events stored durably, by stream");
    describe_counter!(
        INGEST_BYTES,
        Unit::Bytes,
        "Bytes of bodies whose events were stored, by stream"
    );
    describe_counter!(
        INGEST_DUPLICATES,
        "Events acknowledged without storing them again, by stream"
    );
    describe_counter!(INGEST_ERRORS, "Requests and events refused at the door, by reason");
    describe_histogram!(
        INGEST_SECONDS,
        Unit::Seconds,
        "Time from the whole body to durable storage"
    );
    describe_gauge!(
        INGEST_QUEUE_BYTES,
        Unit::Bytes,
        "Bytes of bodies that are being read or wait for storage"
    );
    describe_counter!(SOURCE_EVENTS, "Events that a source has stored in its stream");
    describe_counter!(
        SOURCE_ERRORS,
        "Failures of a source, after each of which it was tried again"
    );
    describe_counter!(SINK_ROWS, "Rows that a sink has delivered");
    describe_counter!(
        SINK_MISSED_ROWS,
        "Offsets that were gone from the log before a sink could deliver them"
    );
    describe_counter!(
        SINK_ERRORS,
        "Failures of a sink, after each of which it was tried again"
    );
    describe_gauge!(SINK_LAG_ROWS, "Rows that a sink has yet to deliver");
    describe_counter!(LOOKUP_KEYS, "Events whose row in a table elsewhere was looked up");
    describe_counter!(
        LOOKUP_ASKED_KEYS,
        "Keys that the table's server was asked for, because they were not remembered"
    );
    describe_counter!(
        LOOKUP_ERRORS,
        "Times that a table's server gave no answer, after each of which it was asked again"
    );
    describe_counter!(DEAD_LETTERS, "Events written to dead_letters, by stream and reason");
}

fn describe_log_and_tasks() {
    describe_histogram!(
        LOG_COMMIT_SECONDS,
        Unit::Seconds,
        "Time of one durable write of the log"
    );
    describe_gauge!(LOG_BYTES, Unit::Bytes, "Bytes that the log takes on disk");
    describe_gauge!(TASK_LAG_ROWS, "Events that a task has yet to read");
    describe_gauge!(
        TASK_WATERMARK_DELAY_SECONDS,
        Unit::Seconds,
        "How far a task's watermark is behind the clock"
    );
    describe_counter!(TASK_ROWS, "Events that a task has read");
    describe_counter!(LATE_ROWS, "Events that came behind the watermark");
    describe_histogram!(COMMIT_SECONDS, Unit::Seconds, "Time that a task's commit took");
    describe_gauge!(STATE_BYTES, Unit::Bytes, "Bytes of state of a task");
    describe_gauge!(
        VIEW_BEHIND_SECONDS,
        Unit::Seconds,
        "How far what this process shows of a view is behind what is stored"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_histograms_and_installing_twice_is_harmless() {
        let first = install().unwrap();
        let second = install().unwrap();
        metrics::histogram!("headwater_test_seconds").record(0.003);
        metrics::counter!(INGEST_EVENTS, "stream" => "clicks").increment(2);
        assert!(
            first.render().contains("headwater_test_seconds_bucket{le=\"0.005\"} 1"),
            "{}",
            first.render()
        );
        assert!(
            second
                .render()
                .contains("headwater_ingest_events_total{stream=\"clicks\"} 2")
        );
    }
}
