//! The HTTP door.

use std::io::Write;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream;
use headwater_event::clock::Clock;
use headwater_gateway::http::HttpOptions;
use headwater_gateway::ingest::IngestOptions;
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::fixture::{Fixture, click};

pub const CLICKS: &str = "/v1/streams/clicks/events";

pub async fn answer(router: &Router, request: Request<Body>) -> (StatusCode, Value) {
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    (status, body(response).await)
}

async fn body(response: Response) -> Value {
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{body:?}"))
}

pub fn post(path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::post(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body.into()).unwrap()
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn what_curl_sends_is_taken() {
    let fixture = Fixture::new().await;
    let router = fixture.router(HttpOptions::default());
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let request = post(CLICKS, &form, r#"{"user_id":"u1"}"#);
    assert_eq!(answer(&router, request).await, (StatusCode::OK, json!({"accepted": 1})));
}

#[tokio::test]
async fn every_format_has_its_content_type() {
    let fixture = Fixture::new().await;
    let router = fixture.router(HttpOptions::default());
    for (content_type, body) in [
        ("application/json", r#"[{"user_id":"u1"},{"user_id":"u2"}]"#),
        ("application/x-ndjson", "{\"user_id\":\"u1\"}\n{\"user_id\":\"u2\"}\n"),
        ("application/ndjson", "{\"user_id\":\"u1\"}\n{\"user_id\":\"u2\"}\n"),
        ("text/csv; charset=utf-8", "user_id\nu1\nu2\n"),
    ] {
        let request = post(CLICKS, &[("content-type", content_type)], body);
        assert_eq!(
            answer(&router, request).await,
            (StatusCode::OK, json!({"accepted": 2})),
            "{content_type}"
        );
    }
    let request = post(
        &format!("{CLICKS}?format=csv"),
        &[("content-type", "image/png")],
        "user_id\nu1\n",
    );
    assert_eq!(answer(&router, request).await, (StatusCode::OK, json!({"accepted": 1})));
}

#[tokio::test]
async fn duplicates_and_rejected_events_are_told() {
    let fixture = Fixture::new().await;
    let router = fixture.router(HttpOptions::default());
    let path = "/v1/streams/unique_clicks/events?on_error=dead_letter";
    let body = [click("a", "u1"), click("a", "u1"), "{}".to_owned()].join("\n");
    let (status, answer) = answer(&router, post(path, &[], body)).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        (&answer["accepted"], &answer["duplicates"], &answer["rejected"]),
        (&json!(1), &json!(1), &json!(1))
    );
    assert_eq!(
        (&answer["errors"][0]["index"], &answer["errors"][0]["field"]),
        (&json!(2), &json!("user_id"))
    );
}

#[tokio::test]
async fn compressed_bodies_are_unpacked() {
    let fixture = Fixture::new().await;
    let router = fixture.router(HttpOptions::default());
    let (one, two) = (format!("{}\n", click("a", "u1")), format!("{}\n", click("b", "u1")));
    let members = [gzip(one.as_bytes()), gzip(two.as_bytes())].concat();
    let frames = [one, two]
        .map(|plain| zstd::encode_all(plain.as_bytes(), 3).unwrap())
        .concat();
    for (encoding, body) in [("gzip", members), ("zstd", frames)] {
        let request = post(CLICKS, &[("content-encoding", encoding)], body);
        assert_eq!(
            answer(&router, request).await,
            (StatusCode::OK, json!({"accepted": 2})),
            "{encoding}"
        );
    }
}

#[tokio::test]
async fn what_unpacks_to_too_much_is_stopped() {
    let fixture = Fixture::new().await;
    let router = fixture.router(HttpOptions {
        request_bytes_max: 1_000_000,
        ..HttpOptions::default()
    });
    let plain = vec![b' '; 20 << 20];
    for (encoding, body) in [("gzip", gzip(&plain)), ("zstd", zstd::encode_all(&*plain, 3).unwrap())] {
        assert!(body.len() < 1_000_000, "{encoding}");
        let (status, problem) = answer(&router, post(CLICKS, &[("content-encoding", encoding)], body)).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(problem["type"], "https://headwater.dev/problems/decompression-bomb");
    }
}

#[tokio::test]
async fn damaged_and_unknown_encodings_are_refused() {
    let fixture = Fixture::new().await;
    let router = fixture.router(HttpOptions::default());
    let mut cut = gzip(click("a", "u1").as_bytes());
    cut.truncate(20);
    for (encoding, body, expected) in [
        ("gzip", cut, StatusCode::BAD_REQUEST),
        ("zstd", b"not zstd".to_vec(), StatusCode::BAD_REQUEST),
        ("br", Vec::new(), StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ] {
        let (status, problem) = answer(&router, post(CLICKS, &[("content-encoding", encoding)], body)).await;
        assert_eq!(status, expected, "{problem}");
    }
}

#[tokio::test]
async fn a_body_in_pieces_is_put_together() {
    let fixture = Fixture::new().await;
    let router = fixture.router(HttpOptions::default());
    let pieces = [r#"{"user"#, r#"_id":"#, r#""u1"}"#].map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece)));
    let request = post(CLICKS, &[], Body::from_stream(stream::iter(pieces)));
    assert_eq!(answer(&router, request).await, (StatusCode::OK, json!({"accepted": 1})));
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let fixture = Fixture::new().await;
    let router = fixture.router(HttpOptions {
        body_read_timeout: Duration::from_secs(10),
        ..HttpOptions::default()
    });
    let never = Body::from_stream(stream::pending::<std::io::Result<Bytes>>());
    let clock = fixture.clock.clone();
    let advance = async {
        let since = clock.elapsed();
        while clock.elapsed() < since + Duration::from_secs(20) {
            clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
    };
    let ((status, problem), ()) = tokio::join!(answer(&router, post(CLICKS, &[], never)), advance);
    assert_eq!(status, StatusCode::REQUEST_TIMEOUT, "{problem}");
}

#[tokio::test]
async fn a_flood_is_told_when_to_come_back() {
    let fixture = Fixture::with(IngestOptions {
        queue_bytes_max: 2000,
        ..IngestOptions::default()
    })
    .await;
    let router = fixture.router(HttpOptions::default());
    let _others = fixture.ingest.reserve(1000).unwrap();
    let response = router.oneshot(post(CLICKS, &[], click("a", "u1"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers()["retry-after"], "1");
}
