//! The pipeline on the log that is on disk: what it promises holds across a restart of all of it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headwater_event::clock::ManualClock;
use headwater_gateway::ingest::IngestOptions;
use headwater_gateway::ingest::error::IngestError;
use headwater_log::embedded::EmbeddedLog;
use headwater_log::embedded::options::EmbeddedOptions;
use headwater_log::error::Error as LogError;
use headwater_problem::ProblemKind;

use crate::fixture::{Fixture, NOW, click};

const STREAM: &str = "unique_clicks";

/// Opens the log as soon as the threads of the one before have let go of it.
fn open(directory: &Path, clock: &Arc<ManualClock>) -> Arc<EmbeddedLog> {
    for _ in 0..500 {
        match EmbeddedLog::open(EmbeddedOptions::new(directory), clock.clone()) {
            Err(LogError::InUse { .. }) => std::thread::sleep(Duration::from_millis(10)),
            opened => return opened.unwrap(),
        }
    }
    panic!("the log stays in use");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_and_their_keys_are_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..3_u32 {
        let clock = ManualClock::new(NOW + i64::from(round));
        let log = open(directory.path(), &clock);
        let fixture = Fixture::on(log, clock, IngestOptions::default()).await;
        // Half of them are those of the round before.
        let ids = round * 50..round * 50 + 100;
        let body: Vec<_> = ids
            .map(|id| click(&format!("{id:03}"), &format!("u{}", id % 7)))
            .collect();
        let answer = fixture.send(STREAM, &body.join("\n")).await.unwrap();
        let expected = if round == 0 { (100, 0) } else { (50, 50) };
        assert_eq!((answer.accepted, answer.duplicates), expected);
        fixture.send("clicks", &click("again", "u1")).await.unwrap();

        let stored = 100 + 50 * round;
        let ids: Vec<_> = (0..stored).map(|id| format!("{id:03}")).collect();
        assert_eq!(fixture.texts(STREAM, "event_id").await, ids);
        assert_eq!(fixture.texts("clicks", "event_id").await.len() as u32, round + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_events_are_taken_again_when_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let free = Arc::new(AtomicU64::new(u64::MAX));
    let seen = Arc::clone(&free);
    let mut options = EmbeddedOptions::new(directory.path());
    options.free_space = Arc::new(move |_| Ok(seen.load(Ordering::Relaxed)));
    let clock = ManualClock::new(NOW);
    let log = EmbeddedLog::open(options, clock.clone()).unwrap();
    let fixture = Fixture::on(log, clock, IngestOptions::default()).await;

    for stream in ["clicks", STREAM] {
        free.store(0, Ordering::Relaxed);
        fixture.clock.advance(Duration::from_secs(60));
        let error = fixture.send(stream, &click("a", "u1")).await.unwrap_err();
        assert_eq!(error.problem_kind(), ProblemKind::DiskFull, "{error}");
        assert!(matches!(error, IngestError::Log(_)) && error.retry_after().is_some());

        free.store(u64::MAX, Ordering::Relaxed);
        fixture.clock.advance(Duration::from_secs(60));
        assert_eq!(fixture.send(stream, &click("a", "u1")).await.unwrap().accepted, 1);
        assert_eq!(fixture.texts(stream, "event_id").await, ["a"]);
    }
}
