//! Live subscriptions, by SSE and WebSocket.

use std::time::Duration;

use futures::{Stream, TryStreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::World;

/// Reads server-sent events until there are `count` with data: ids and data.
async fn events<E: std::fmt::Debug>(
    body: impl Stream<Item = Result<bytes::Bytes, E>>,
    count: usize,
) -> Vec<(String, Value)> {
    let mut body = Box::pin(body);
    let mut text = String::new();
    loop {
        let found: Vec<_> = text.split("\n\n").filter_map(event).collect();
        if found.len() >= count {
            return found;
        }
        let chunk = tokio::time::timeout(Duration::from_secs(20), body.try_next())
            .await
            .unwrap();
        text.push_str(std::str::from_utf8(&chunk.unwrap().unwrap()).unwrap());
    }
}

fn event(text: &str) -> Option<(String, Value)> {
    let id = text.lines().find_map(|line| line.strip_prefix("id: "))?;
    let data = text.lines().find_map(|line| line.strip_prefix("data: "))?;
    Some((id.to_owned(), serde_json::from_str(data).ok()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_resumes_where_it_was() {
    let world = World::with_clicks().await;
    let response = world.get("/v1/streams/clicks/live?from=earliest").await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let seen = events(response.bytes_stream(), 2).await;
    let request = world.client.get(format!("{}/v1/streams/clicks/live", world.http));
    let rest = request.header("last-event-id", &seen[1].0).send().await.unwrap();
    let rest = events(rest.bytes_stream(), 1).await;
    let mut numbers: Vec<_> = seen[..2]
        .iter()
        .chain(&rest[..1])
        .map(|(_, data)| data["event"]["n"].as_i64())
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [Some(3), Some(4), Some(5)]);
    assert_eq!(rest[0].1["position"], rest[0].0.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_view_say_what_happened() {
    let world = World::with_clicks().await;
    let response = world.get("/v1/views/page_clicks/live").await;
    world
        .run("INSERT INTO clicks (user_id, page) VALUES ('u1', '/home')")
        .await;
    let seen = events(response.bytes_stream(), 2).await;
    let ops: Vec<_> = seen.iter().map(|(_, data)| data["op"].as_str().unwrap()).collect();
    assert_eq!(ops, ["update_before", "update_after"]);
    assert_eq!(seen[1].1["row"]["clicks"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_filled_and_a_drop_ends_it() {
    let world = World::empty().await;
    world.run("CREATE STREAM quiet (x INT)").await;
    let mut body = world.get("/v1/streams/quiet/live").await.bytes_stream();
    let beat = tokio::time::timeout(Duration::from_secs(20), body.try_next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(&beat[..], b":\n\n");
    world.run("DROP STREAM quiet").await;
    let mut last = bytes::Bytes::new();
    while let Some(chunk) = tokio::time::timeout(Duration::from_secs(20), body.try_next())
        .await
        .unwrap()
        .unwrap()
    {
        last = chunk;
    }
    assert!(last.starts_with(b"event: end"), "{last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_gets_the_same() {
    let world = World::with_clicks().await;
    let address = world.http.strip_prefix("http://").unwrap();
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /v1/streams/clicks/live?from=earliest HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    let mut numbers = Vec::new();
    while numbers.len() < 3 {
        let (opcode, payload) = frame(&mut socket).await;
        if opcode == 1 {
            let message: Value = serde_json::from_slice(&payload).unwrap();
            numbers.push(message["event"]["n"].as_i64().unwrap());
        }
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [3, 4, 5]);
}

/// One frame of a server: its opcode and payload.
async fn frame(socket: &mut TcpStream) -> (u8, Vec<u8>) {
    let opcode = socket.read_u8().await.unwrap() & 0x0f;
    let length = match socket.read_u8().await.unwrap() {
        126 => usize::from(socket.read_u16().await.unwrap()),
        length => usize::from(length),
    };
    let mut payload = vec![0; length];
    socket.read_exact(&mut payload).await.unwrap();
    (opcode, payload)
}
