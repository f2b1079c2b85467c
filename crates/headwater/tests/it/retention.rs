//! How long things stay in the log.

use headwater::cli::embedded::Embedded;
use headwater_event::clock::SystemClock;
use headwater_log::topic::Cleanup;

#[tokio::test]
async fn a_views_changes_are_kept_for_those_who_come_later() {
    let instance = Embedded::with_threads(SystemClock::new(), 1).await.expect("it starts");
    let made = instance.core.execute(
        "CREATE STREAM events (n BIGINT); CREATE MATERIALIZED VIEW counts AS SELECT n, count(*) AS c FROM events GROUP BY n",
    );
    made.await.expect("the statements are fine");
    let snapshot = instance.core.catalog.snapshot();
    let topic = snapshot.get("counts").expect("the view").topic();
    let topic = instance
        .core
        .log
        .topic(&topic)
        .await
        .expect("the log works")
        .expect("the topic");
    let for_ever = Cleanup::Delete {
        retention_ms: None,
        retention_bytes: None,
    };
    assert_eq!(topic.spec.cleanup, for_ever);
}
