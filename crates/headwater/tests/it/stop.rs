//! How the real binary stops, and what its log says of a request.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::server::Server;

const SQL: &str = "CREATE STREAM events (id TEXT NOT NULL);";
/// Long enough for the process to have seen a signal, or the beginning of a request.
const A_WHILE: Duration = Duration::from_millis(400);

#[tokio::test]
async fn what_is_under_way_is_answered_before_the_end() {
    let mut server = Server::new(SQL);
    server.start().await;
    let mut slow = begin_request(&server).await;
    let mut live = reqwest::Client::new()
        .get(format!("{}/v1/streams/events/live", server.url()))
        .header("accept", "text/event-stream")
        .send()
        .await
        .expect("a live subscription");
    server.signal("TERM");
    tokio::time::sleep(A_WHILE).await;
    assert!(
        TcpStream::connect(("127.0.0.1", server.http_port)).await.is_err(),
        "the door is shut"
    );

    slow.write_all(b"\"last\"}").await.expect("it is still there");
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.expect("an answer");
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("{\"accepted\":1}"),
        "{answer}"
    );
    while let Ok(Some(_)) = live.chunk().await {}
    let status = server.ended().await;
    assert_eq!(status.code(), Some(0), "{}", server.log());

    server.start().await;
    assert_eq!(server.sql("SELECT id FROM events").await, [json!({"id": "last"})]);
    server.signal("INT");
    assert_eq!(server.ended().await.code(), Some(0), "{}", server.log());
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut server = Server::new(SQL);
    server.start().await;
    let slow = begin_request(&server).await;
    server.signal("TERM");
    tokio::time::sleep(A_WHILE).await;
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(130), "{}", server.log());
    drop(slow);
}

/// Sends a request but for its last bytes.
async fn begin_request(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", server.http_port))
        .await
        .expect("a connection");
    let head = "POST /v1/streams/events/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Connection: close\r\nContent-Length: 13\r\n\r\n{\"id\":";
    stream.write_all(head.as_bytes()).await.expect("sent");
    tokio::time::sleep(A_WHILE).await;
    stream
}

#[tokio::test]
async fn the_id_of_a_request_stands_in_its_log_lines() {
    let mut server = Server::new(SQL)
        .with("telemetry.log_format=json")
        .with("telemetry.log_level=info,headwater_gateway=debug");
    server.start().await;
    let headers = [("content-type", "application/json"), ("x-request-id", "order-4711")];
    let (status, problem) = server
        .post_as("/v1/streams/events/events", &headers, "{\"id\":7}")
        .await;
    assert_eq!(
        (status, &problem["request_id"]),
        (422, &json!("order-4711")),
        "{problem}"
    );

    let log = server.log();
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of_request: Vec<_> = lines
        .iter()
        .filter(|line| line.to_string().contains("order-4711"))
        .collect();
    assert_eq!(of_request.len(), 1, "{log}");
    assert_eq!(of_request[0]["message"], "events were not stored", "{log}");
    assert!(
        of_request[0]["error"]
            .as_str()
            .is_some_and(|error| error.contains("TEXT")),
        "{log}"
    );
    for library in ["fjall", "lsm_tree"] {
        assert!(!lines.iter().any(|line| {
            line["target"]
                .as_str()
                .is_some_and(|target| target.starts_with(library))
        }));
    }
}
