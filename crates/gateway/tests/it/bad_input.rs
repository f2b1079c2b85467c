//! Bad input, one test for each kind: what is wrong and where is told, and nothing is stored.

use axum::body::Body;
use headwater_gateway::http::HttpOptions;
use http::{Request, StatusCode};
use serde_json::{Value, json};

use crate::fixture::Fixture;
use crate::http::{CLICKS, answer, post};

async fn refused(request: Request<Body>) -> (StatusCode, Value) {
    let fixture = Fixture::new().await;
    let router = fixture.router(HttpOptions {
        request_bytes_max: 10_000,
        ..HttpOptions::default()
    });
    let answer = answer(&router, request).await;
    assert!(fixture.stored("clicks").await.is_empty());
    answer
}

/// The only error of the problem document about a body that doesn't fit.
async fn error(body: impl Into<Body>) -> Value {
    let (status, problem) = refused(post(CLICKS, &[("content-type", "application/json")], body)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert_eq!(problem["type"], "https://headwater.dev/problems/invalid-events");
    assert_eq!(
        (&problem["status"], &problem["count"]),
        (&json!(422), &json!(1)),
        "{problem}"
    );
    let errors = problem["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 1, "{problem}");
    assert!(errors[0]["message"].as_str().is_some_and(|message| !message.is_empty()));
    errors[0].clone()
}

#[tokio::test]
async fn malformed_json() {
    let error = error(r#"[{"user_id":"u1"},{"user_id" "u2"}]"#).await;
    assert_eq!((&error["index"], &error["line"]), (&json!(1), &json!(1)), "{error}");
    assert!(error["column"].as_u64().unwrap() > 18, "{error}");
}

#[tokio::test]
async fn a_wrong_type() {
    let error = error(r#"[{"user_id":"u1"},{"user_id":"u1","duration":"long"}]"#).await;
    assert_eq!((&error["index"], &error["field"]), (&json!(1), &json!("duration")));
    assert!(error["expected"].is_string() && error["found"].is_string(), "{error}");
}

#[tokio::test]
async fn a_missing_field_that_is_not_null() {
    assert_eq!(error(r#"{"duration":1}"#).await["field"], "user_id");
}

#[tokio::test]
async fn an_unknown_field() {
    let error = error(r#"{"user_id":"u1","colour":"red"}"#).await;
    assert!(error["message"].as_str().unwrap().contains("colour"), "{error}");
}

#[tokio::test]
async fn a_number_that_is_too_large() {
    assert_eq!(
        error(r#"{"user_id":"u1","duration":3000000000}"#).await["field"],
        "duration"
    );
}

#[tokio::test]
async fn a_bad_time_stamp() {
    assert_eq!(
        error(r#"{"user_id":"u1","time_stamp":"2026-13-01T00:00:00Z"}"#).await["field"],
        "time_stamp"
    );
}

#[tokio::test]
async fn invalid_utf8() {
    assert_eq!(error(b"{\"user_id\":\"\xff\xfe\"}".to_vec()).await["index"], 0);
}

#[tokio::test]
async fn two_hundred_levels_of_nesting() {
    error(format!("{}{}", "[".repeat(200), "]".repeat(200))).await;
    error(format!(
        r#"{{"user_id":{}1{}}}"#,
        r#"{"a":"#.repeat(200),
        "}".repeat(200)
    ))
    .await;
}

#[tokio::test]
async fn nothing_at_all() {
    error("").await;
}

#[tokio::test]
async fn many_bad_events_are_counted_and_the_first_listed() {
    let body = vec!["{}"; 50].join(",");
    let (status, problem) = refused(post(
        CLICKS,
        &[("content-type", "application/json")],
        format!("[{body}]"),
    ))
    .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        (problem["errors"].as_array().unwrap().len(), &problem["count"]),
        (20, &json!(50))
    );
}

#[tokio::test]
async fn a_body_over_the_limit() {
    let body = format!(r#"{{"user_id":"{}"}}"#, "x".repeat(10_000));
    let length = body.len().to_string();
    for headers in [vec![], vec![("content-length", length.as_str())]] {
        let (status, problem) = refused(post(CLICKS, &headers, body.clone())).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(problem["type"], "https://headwater.dev/problems/body-too-large");
    }
}

#[tokio::test]
async fn an_unknown_content_type() {
    let (status, problem) = refused(post(CLICKS, &[("content-type", "application/xml")], "<a/>")).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(
        problem["hint"].as_str().unwrap().contains("application/x-ndjson"),
        "{problem}"
    );
}

#[tokio::test]
async fn an_unknown_stream() {
    let (status, problem) = refused(post("/v1/streams/click/events", &[], "{}")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(problem["type"], "https://headwater.dev/problems/unknown-stream");
    assert_eq!(problem["hint"], "did you mean 'clicks'?");
}

#[tokio::test]
async fn a_stream_name_that_is_not_text() {
    let (status, problem) = refused(post("/v1/streams/%ff/events", &[], "{}")).await;
    assert_eq!((status, &problem["status"]), (StatusCode::NOT_FOUND, &json!(404)));
}

#[tokio::test]
async fn a_stream_that_is_filled_by_a_query() {
    let (status, problem) = refused(post("/v1/streams/clicks_per_minute/events", &[], "{}")).await;
    assert_eq!((status, &problem["status"]), (StatusCode::CONFLICT, &json!(409)));
}

#[tokio::test]
async fn an_unknown_parameter() {
    let (status, problem) = refused(post(&format!("{CLICKS}?onerror=x"), &[], "{}")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(problem["type"], "https://headwater.dev/problems/unknown-parameter");
}
