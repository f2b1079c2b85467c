//! Events through the pipeline: stored once, in their partition, when the sender hears of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::TimestampMicrosecondType;
use futures::future::join_all;
use headwater_catalog::definition::{Object, Watermark};
use headwater_catalog::snapshot::Change;
use headwater_event::clock::Clock;
use headwater_gateway::ingest::error::IngestError;
use headwater_gateway::ingest::{Accepted, IngestOptions};
use headwater_schema::decode::{FAILURES_COLLECTED_MAX, OnError};

use crate::fixture::{Fixture, click, create_topic, send, stream};

fn accepted(accepted: usize) -> Accepted {
    Accepted {
        accepted,
        ..Accepted::default()
    }
}

#[tokio::test]
async fn an_accepted_event_is_in_the_log_with_its_defaults() {
    let fixture = Fixture::new().await;
    assert_eq!(
        fixture.send("clicks", r#"{"user_id":"u1"}"#).await.unwrap(),
        accepted(1)
    );
    let stored = fixture.stored("clicks").await;
    let batch = &stored.values().next().unwrap()[0];
    assert_eq!(batch.column(0).as_string::<i32>().value(0).len(), 36);
    assert_eq!(batch.column(1).as_string::<i32>().value(0), "u1");
    let time = batch.column(3).as_primitive::<TimestampMicrosecondType>().value(0);
    assert_eq!(time, fixture.clock.now());
}

#[tokio::test(flavor = "multi_thread")]
async fn single_events_from_many_are_all_stored_once() {
    let fixture = Fixture::new().await;
    let senders = (0..64).map(|sender| {
        let ingest = Arc::clone(&fixture.ingest);
        tokio::spawn(async move {
            for event in 0..20 {
                let body = click(&format!("{sender}-{event}"), &format!("u{sender}"));
                assert_eq!(
                    send(&ingest, "clicks", &body, OnError::Reject).await.unwrap(),
                    accepted(1)
                );
            }
        })
    });
    join_all(senders).await.into_iter().for_each(|done| done.unwrap());

    let mut expected: Vec<_> = (0..64).flat_map(|s| (0..20).map(move |e| format!("{s}-{e}"))).collect();
    expected.sort();
    assert_eq!(fixture.texts("clicks", "event_id").await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_user_meet_in_one_partition_in_the_order_in_which_they_were_sent() {
    let fixture = Fixture::new().await;
    for event in 0..50 {
        let body: Vec<_> = (0..10)
            .map(|user| click(&format!("{event:02}"), &format!("u{user}")))
            .collect();
        fixture.send("clicks", &body.join("\n")).await.unwrap();
    }
    let stored = fixture.stored("clicks").await;
    assert!(stored.len() > 1, "ten users, one partition");
    let mut seen: HashMap<String, (u32, Vec<String>)> = HashMap::new();
    for (partition, batch) in stored
        .iter()
        .flat_map(|(p, batches)| batches.iter().map(move |b| (*p, b)))
    {
        let (ids, users) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
        for (id, user) in ids.iter().zip(users) {
            let of_user = seen.entry(user.unwrap().to_owned()).or_insert((partition, Vec::new()));
            assert_eq!(of_user.0, partition);
            of_user.1.push(id.unwrap().to_owned());
        }
    }
    for (_, ids) in seen.values() {
        assert!(ids.is_sorted() && ids.len() == 50, "{ids:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_go_beside_small_ones() {
    let fixture = Fixture::with(IngestOptions {
        large_body_bytes_min: 1000,
        ..IngestOptions::default()
    })
    .await;
    let large: Vec<_> = (0..500).map(|event| click(&format!("large-{event}"), "u1")).collect();
    let large = large.join("\n");
    let sends = (0..10).map(|_| fixture.send("clicks", &large));
    let small = click("small", "u2");
    let (large, small) = tokio::join!(join_all(sends), fixture.send("clicks", &small));
    assert!(large.into_iter().all(|large| large.unwrap() == accepted(500)));
    assert_eq!(small.unwrap(), accepted(1));
    assert_eq!(fixture.texts("clicks", "event_id").await.len(), 5001);
}

#[tokio::test]
async fn a_bad_body_does_not_touch_the_others_in_its_group() {
    let fixture = Fixture::new().await;
    let (good, bad) = (click("good", "u1"), format!("{}\n{{}}", click("bad", "u1")));
    let (first, second, third) = tokio::join!(
        fixture.send("clicks", &good),
        fixture.send("clicks", &bad),
        fixture.send("clicks", &good),
    );
    assert_eq!((first.unwrap(), third.unwrap()), (accepted(1), accepted(1)));
    let Err(IngestError::Invalid { failures, failed }) = second else {
        panic!("{second:?}")
    };
    assert_eq!((failures[0].index, failed), (1, 1));
    assert_eq!(fixture.texts("clicks", "event_id").await, ["good", "good"]);
}

#[tokio::test]
async fn bad_events_go_to_dead_letters_if_asked_for() {
    let fixture = Fixture::new().await;
    let body = format!("{}\n{{\"user_id\":7}}\n{}", click("a", "u1"), click("b", "u2"));
    let answer = send(&fixture.ingest, "clicks", &body, OnError::Collect).await.unwrap();
    assert_eq!((answer.accepted, answer.duplicates, answer.rejected), (2, 0, 1));
    assert_eq!((answer.failures.len(), answer.failures[0].index), (1, 1));
    assert_eq!(fixture.texts("clicks", "event_id").await, ["a", "b"]);

    let letters = fixture.dead_letters().await;
    let text = |column| letters.column_by_name(column).unwrap().as_string::<i32>().value(0);
    assert_eq!(
        (text("stream"), text("source"), text("reason")),
        ("clicks", "test", "decode")
    );
    assert!(text("detail").starts_with("event 1, line 2, "), "{}", text("detail"));
    let payload = letters.column_by_name("payload").unwrap().as_binary::<i32>().value(0);
    assert_eq!(payload.trim_ascii(), br#"{"user_id":7}"#);
}

#[tokio::test]
async fn a_dead_letter_keeps_the_whole_event() {
    let fixture = Fixture::new().await;
    let body = format!("{{\"user_id\":\"{}\",\"duration\":\"long\"}}", "x".repeat(3 << 20));
    send(&fixture.ingest, "clicks", &body, OnError::Collect).await.unwrap();
    let letters = fixture.dead_letters().await;
    let payload = letters.column_by_name("payload").unwrap().as_binary::<i32>().value(0);
    assert_eq!(payload, body.as_bytes());
}

#[tokio::test]
async fn more_bad_events_than_can_be_told_apart_are_refused_with_all_others() {
    let fixture = Fixture::new().await;
    let bad = "{}\n".repeat(FAILURES_COLLECTED_MAX);
    let body = format!("{}\n{bad}", click("a", "u1"));
    let answer = send(&fixture.ingest, "clicks", &body, OnError::Collect).await.unwrap();
    assert_eq!((answer.accepted, answer.rejected), (1, FAILURES_COLLECTED_MAX));

    let body = format!("{}\n{bad}{}", click("b", "u1"), click("c", "u1"));
    let error = send(&fixture.ingest, "clicks", &body, OnError::Collect)
        .await
        .unwrap_err();
    let IngestError::TooManyInvalid { failures, failed } = &error else {
        panic!("{error:?}");
    };
    assert_eq!((failures.len(), *failed), (20, FAILURES_COLLECTED_MAX + 1));
    assert!(
        error.to_string().starts_with("nothing was stored: 10000 events"),
        "{error}"
    );
    assert_eq!(fixture.texts("clicks", "event_id").await, ["a"]);
    assert_eq!(fixture.dead_letters().await.num_rows(), FAILURES_COLLECTED_MAX);
}

#[tokio::test]
async fn rows_of_an_insert_get_their_defaults() {
    let fixture = Fixture::new().await;
    let users: ArrayRef = Arc::new(StringArray::from(vec!["u1", "u2"]));
    let rows = RecordBatch::try_from_iter([("user_id", users)]).unwrap();
    assert_eq!(fixture.ingest.append("clicks", rows).await.unwrap().accepted, 2);
    assert_eq!(fixture.texts("clicks", "user_id").await, ["u1", "u2"]);

    let ids: ArrayRef = Arc::new(StringArray::from(vec!["e1"]));
    let rows = RecordBatch::try_from_iter([("event_id", ids)]).unwrap();
    let error = fixture.ingest.append("clicks", rows).await.unwrap_err();
    assert!(error.to_string().contains("user_id"), "{error}");
}

#[tokio::test]
async fn only_streams_that_are_filled_from_outside_take_events() {
    let fixture = Fixture::new().await;
    let refused = async |stream| fixture.send(stream, &click("a", "u1")).await.unwrap_err();
    let unknown = refused("clikcs").await;
    assert!(
        matches!(&unknown, IngestError::UnknownStream { nearest: Some(nearest), .. } if nearest == "clicks"),
        "{unknown:?}"
    );
    assert!(matches!(refused("page_clicks").await, IngestError::NotAStream { .. }));
    assert!(matches!(
        refused("clicks_per_minute").await,
        IngestError::NotWritable { .. }
    ));
    assert!(matches!(refused("dead_letters").await, IngestError::NotWritable { .. }));
}

#[tokio::test]
async fn a_replaced_stream_takes_events_of_its_new_form() {
    let fixture = Fixture::new().await;
    fixture.send("clicks", &click("a", "u1")).await.unwrap();
    let mut replaced = stream("clicks", None);
    if let Object::Stream(stream) = &mut replaced.object {
        stream.schema.columns.remove(0);
    }
    let version = fixture.catalog.snapshot().version;
    fixture
        .catalog
        .apply(version, vec![Change::Put(replaced)])
        .await
        .unwrap();
    let replaced = Arc::clone(fixture.catalog.snapshot().get("clicks").unwrap());
    create_topic(&*fixture.log, &replaced).await;

    assert!(
        fixture.send("clicks", &click("b", "u1")).await.is_err(),
        "there is no event_id any more"
    );
    fixture.send("clicks", r#"{"user_id":"u2"}"#).await.unwrap();
    assert_eq!(fixture.texts("clicks", "user_id").await, ["u2"]);
}

#[tokio::test]
async fn more_than_there_is_room_for_is_refused_and_room_comes_back() {
    let fixture = Fixture::with(IngestOptions {
        queue_bytes_max: 2000,
        ..IngestOptions::default()
    })
    .await;
    let others = fixture.ingest.reserve(1000).unwrap();
    let refused = fixture.send("clicks", &click("a", "u1")).await.unwrap_err();
    assert!(matches!(refused, IngestError::TooBusy { .. }), "{refused:?}");
    assert!(refused.retry_after().is_some());
    drop(others);
    for _ in 0..10 {
        fixture.send("clicks", &click("a", "u1")).await.unwrap();
    }
}

/// The stream `guarded`, with a `max_future`.
async fn guard(fixture: &Fixture, key: Option<&str>, max_future: i64) {
    let mut guarded = stream("guarded", key);
    if let Object::Stream(stream) = &mut guarded.object {
        stream.watermark = Some(Watermark {
            column: "time_stamp".to_owned(),
            delay: 0,
            max_future: Some(max_future),
        });
    }
    let version = fixture.catalog.snapshot().version;
    fixture
        .catalog
        .apply(version, vec![Change::Put(guarded)])
        .await
        .unwrap();
    let guarded = Arc::clone(fixture.catalog.snapshot().get("guarded").unwrap());
    create_topic(&*fixture.log, &guarded).await;
}

/// What comes from a clock that is wrong is told of, kept in `dead_letters`, and not in the stream; all else is.
#[tokio::test]
async fn events_too_far_ahead_of_the_clock_are_kept_out() {
    for key in [None, Some("event_id")] {
        let fixture = Fixture::new().await;
        guard(&fixture, key, 60_000_000).await;
        let at = |id: &str, minute: &str| {
            format!(r#"{{"event_id":"{id}","user_id":"u","time_stamp":"2026-01-01T00:{minute}Z"}}"#)
        };
        let body = [
            at("a", "00:59"),
            at("b", "01:01"),
            "{}".to_owned(),
            at("c", "01:00"),
            at("d", "59:00"),
        ]
        .join("\n");
        let accepted = send(&fixture.ingest, "guarded", &body, OnError::Collect).await.unwrap();
        let places: Vec<_> = accepted.failures.iter().map(|failure| failure.index).collect();
        assert_eq!((accepted.accepted, accepted.rejected, places), (2, 3, vec![1, 2, 4]));
        // Without a bad event the others are not refused for it either.
        let body = [at("e", "00:00"), at("f", "02:00")].join("\n");
        let accepted = fixture.send("guarded", &body).await.unwrap();
        assert_eq!((accepted.accepted, accepted.rejected), (1, 1));
        let message = &accepted.failures[0].message;
        assert!(
            message.starts_with("time_stamp: expected a time up to 2026-01-01T00:01:00Z"),
            "{message}"
        );
        assert_eq!(fixture.texts("guarded", "event_id").await, ["a", "c", "e"]);

        let letters = fixture.dead_letters().await;
        let column = |at: usize| {
            letters
                .column(at)
                .as_string::<i32>()
                .iter()
                .flatten()
                .collect::<Vec<_>>()
        };
        assert_eq!(column(3), ["decode", "future", "future", "future"]);
        assert_eq!(column(2), ["test"; 4]);
        assert!(column(4)[2].starts_with("event 4, time_stamp"), "{:?}", column(4));
        let payload = letters.column(5).as_binary::<i32>().value(3);
        assert_eq!(
            String::from_utf8_lossy(payload),
            r#"{"event_id":"f","user_id":"u","duration":null,"time_stamp":"2026-01-01T00:02:00Z"}"#
        );

        // It was not stored, so it is new when its clock is right.
        fixture.clock.advance(Duration::from_secs(60));
        assert_eq!(fixture.send("guarded", &at("f", "02:00")).await.unwrap().accepted, 1);
    }
}

/// A body that is all wrong is refused: its sender still has it, and memory stays bounded.
#[tokio::test]
async fn a_body_with_too_many_of_them_is_refused() {
    let fixture = Fixture::new().await;
    guard(&fixture, None, 0).await;
    let event = "{\"user_id\":\"u\",\"time_stamp\":\"2027-01-01\"}\n";
    let error = fixture
        .send("guarded", &event.repeat(FAILURES_COLLECTED_MAX + 1))
        .await
        .unwrap_err();
    assert!(
        matches!(error, IngestError::Invalid { failed, .. } if failed == FAILURES_COLLECTED_MAX + 1),
        "{error}"
    );
    assert_eq!(fixture.dead_letters().await.num_rows(), 0);
}
