//! The gRPC door.

use std::time::Duration;

use bytes::Bytes;

use headwater_event::stored::Stored;
use headwater_gateway::grpc::Door;
use headwater_gateway::http::HttpOptions;
use headwater_gateway::ingest::IngestOptions;
use headwater_grpc::status::problem;
use headwater_grpc::v1::ingest_client::IngestClient;
use headwater_grpc::v1::{Format, OnError, SendRequest};
use headwater_problem::ProblemKind;
use tonic::Code;
use tonic::service::Routes;

use crate::fixture::{Fixture, click};

type Client = IngestClient<Routes>;

fn client(fixture: &Fixture, options: HttpOptions) -> Client {
    let door = Door::new(fixture.ingest.clone(), fixture.clock.clone(), options);
    IngestClient::new(Routes::new(door))
}

fn events(events: impl Into<Bytes>) -> SendRequest {
    SendRequest {
        stream: "clicks".to_owned(),
        events: events.into(),
        ..SendRequest::default()
    }
}

#[tokio::test]
async fn events_are_stored_in_every_format() {
    let fixture = Fixture::new().await;
    let mut client = client(&fixture, HttpOptions::default());
    for (format, body, users) in [
        (Format::Unspecified, r#"{"user_id":"u1"}"#, 1),
        (Format::Json, r#"[{"user_id":"u1"},{"user_id":"u2"}]"#, 2),
        (Format::Ndjson, "{\"user_id\":\"u1\"}\n{\"user_id\":\"u2\"}\n", 2),
        (Format::Csv, "user_id\nu3\n", 1),
    ] {
        let mut request = events(body);
        request.set_format(format);
        let answer = client.send(request).await.unwrap().into_inner();
        assert_eq!((answer.accepted, answer.rejected), (users, 0), "{format:?}");
    }
    assert_eq!(
        fixture.texts("clicks", "user_id").await,
        ["u1", "u1", "u1", "u2", "u2", "u3"]
    );

    let mut again = events(click("e1", "u1"));
    again.stream = "unique_clicks".to_owned();
    let first = client.send(again.clone()).await.unwrap().into_inner();
    let answer = client.send(again).await.unwrap().into_inner();
    assert_eq!((answer.accepted, answer.duplicates), (0, 1));
    let [first, again] = [first, answer].map(|answer| answer.offset.parse::<Stored>().unwrap());
    assert!(!first.is_empty() && again.covers(&first));
}

#[tokio::test]
async fn bad_events_are_told_with_their_place_and_nothing_is_stored() {
    let fixture = Fixture::new().await;
    let mut client = client(&fixture, HttpOptions::default());
    let body = "{\"user_id\":\"u1\"}\n{\"user_id\":7}\n";
    let refused = client.send(events(body)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(
        refused.message().starts_with("nothing was stored"),
        "{}",
        refused.message()
    );
    let told = problem(&refused);
    let item = &told.errors[0];
    assert_eq!((told.kind, told.count), (ProblemKind::InvalidEvents, 1));
    assert_eq!(
        (item.index, item.field.as_deref(), item.line),
        (Some(1), Some("user_id"), Some(2))
    );
    assert!(fixture.stored("clicks").await.is_empty());

    let mut request = events(body);
    request.set_on_error(OnError::DeadLetter);
    let answer = client.send(request).await.unwrap().into_inner();
    assert_eq!((answer.accepted, answer.rejected), (1, 1));
    assert_eq!(answer.errors[0].field.as_deref(), Some("user_id"));
    assert_eq!(fixture.texts("dead_letters", "source").await, ["grpc"]);
}

#[tokio::test]
async fn requests_that_say_what_there_is_not_are_refused() {
    let fixture = Fixture::new().await;
    let mut client = client(&fixture, HttpOptions::default());
    let to = |stream: &str| SendRequest {
        stream: stream.to_owned(),
        ..events(r#"{"user_id":"u1"}"#)
    };
    let cases = [
        (
            to("click"),
            Code::InvalidArgument,
            "there is no stream 'click'; did you mean 'clicks'?",
        ),
        (
            to("page_clicks"),
            Code::FailedPrecondition,
            "'page_clicks' is a view, and events go into streams",
        ),
        (
            to("clicks_per_minute"),
            Code::FailedPrecondition,
            "the stream 'clicks_per_minute' is filled by its query",
        ),
        (
            events("user_id\nu1\n"),
            Code::InvalidArgument,
            "the events do not look like JSON; say what format they have",
        ),
        (
            SendRequest {
                format: 77,
                ..events("{}")
            },
            Code::InvalidArgument,
            "format can't be 77",
        ),
        (
            SendRequest {
                on_error: -1,
                ..events("{}")
            },
            Code::InvalidArgument,
            "on_error can't be -1",
        ),
    ];
    for (request, code, says) in cases {
        let refused = client.send(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
        assert!(refused.message().starts_with(says), "{}", refused.message());
    }
}

#[tokio::test]
async fn what_is_too_much_is_told_to_come_back_or_not_to() {
    let options = IngestOptions {
        queue_bytes_max: 64 << 10,
        ..IngestOptions::default()
    };
    let fixture = Fixture::with(options).await;
    let bounds = HttpOptions {
        request_bytes_max: 100 << 10,
        ..HttpOptions::default()
    };
    let mut client = client(&fixture, bounds);
    // Somebody else's events fill the room.
    let others = fixture.ingest.reserve(60 << 10).unwrap();
    let refused = client.send(events(vec![b' '; 20 << 10])).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(problem(&refused).retry_after_s, Some(1));
    drop(others);
    assert!(client.send(events(r#"{"user_id":"u1"}"#)).await.is_ok());

    // More than the room for all, and more than a request may have.
    let refused = client.send(events(vec![b' '; 90 << 10])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let bounds = HttpOptions {
        request_bytes_max: 10 << 10,
        ..HttpOptions::default()
    };
    let refused = self::client(&fixture, bounds).send(events(vec![b' '; 20 << 10])).await;
    assert_eq!(refused.unwrap_err().code(), Code::OutOfRange);
    // All of the room was given back.
    fixture.ingest.reserve(60 << 10).unwrap();
}

#[tokio::test]
async fn who_does_not_send_on_is_not_waited_for() {
    let fixture = Fixture::new().await;
    let door = Door::new(fixture.ingest.clone(), fixture.clock.clone(), HttpOptions::default());
    let begun = [Ok::<_, std::io::Error>(Bytes::from_static(b"\0\0\0\0\x20half"))];
    let never = futures::stream::StreamExt::chain(futures::stream::iter(begun), futures::stream::pending());
    let request = http::Request::post("/headwater.v1.Ingest/Send")
        .header("content-type", "application/grpc")
        .body(axum::body::Body::from_stream(never))
        .unwrap();
    let mut routes = Routes::new(door);
    let answer = tower::Service::call(&mut routes, request);
    let (answer, ()) = tokio::join!(answer, async {
        tokio::task::yield_now().await;
        fixture.clock.advance(Duration::from_secs(31));
    });
    assert_eq!(answer.unwrap().headers()["grpc-status"], "4");
}
