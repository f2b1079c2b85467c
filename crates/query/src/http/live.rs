//! `GET /v1/streams/{stream}/live?from=…` and `/v1/views/{view}/live`: events or changes as they come,
//! by WebSocket where the client upgrades, else by SSE.
//!
//! 1. A subscription is a cursor over the log. It reads when the client has taken what was read
//!    before: whoever is slow falls behind, and holds nothing but its own next batch.
//! 2. Without `from` it begins now. Every message says where to go on after it; SSE has that as the
//!    message's id, so that a browser that reconnects goes on where it was (`Last-Event-ID`).
//! 3. After a silence something is sent, which keeps proxies from closing the connection and finds
//!    out about clients that are gone.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use axum::body::Body;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message as Frame, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{self, Stream};
use headwater_catalog::definition::Definition;
use headwater_catalog::snapshot::Snapshot;
use headwater_event::changes;
use headwater_event::offset::Offset;
use headwater_log::error::Error as LogError;
use headwater_schema::encode::JsonRows;
use http::header::{HeaderMap, UPGRADE};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::error::QueryError;
use crate::http::events::{self, Reading};
use crate::http::message::{self, Message};
use crate::http::rows::{self, Form};
use crate::http::{find_stream, find_view};
use crate::position::{From, Position};
use crate::reader::TopicReader;
use crate::shared::Shared;

const LAST_EVENT_ID: &str = "last-event-id";
const KNOWN: [&str; 2] = ["from", "partition"];

/// What a request asks to become; most ask for nothing.
type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// A client's place in a topic, and what it takes to stay there.
struct Subscription {
    shared: Arc<Shared>,
    definition: Arc<Definition>,
    reader: TopicReader,
    /// After the last message.
    position: Position,
    catalog: watch::Receiver<Arc<Snapshot>>,
    _permit: OwnedSemaphorePermit,
}

/// What a subscription has to tell.
enum News {
    /// Messages, each with the position after it.
    Messages(Vec<(String, Vec<u8>)>),
    /// Nothing for a while.
    Silence,
    /// Something that could not be read; what follows it can.
    Problem(String),
    /// There will be no more, and why.
    End(String),
    /// The same, and the position means nothing any more.
    Gone(String),
}

pub async fn stream(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Response {
    let snapshot = shared.parts.catalog.snapshot();
    match find_stream(&snapshot, &name) {
        Ok(definition) => subscribe(shared, definition, query, &headers, upgrade).await,
        Err(problem) => problem.into_response(),
    }
}

pub async fn view(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Response {
    let snapshot = shared.parts.catalog.snapshot();
    match find_view(&snapshot, &name) {
        Ok(definition) => subscribe(shared, definition, query, &headers, upgrade).await,
        Err(problem) => problem.into_response(),
    }
}

async fn subscribe(
    shared: Arc<Shared>,
    definition: &Arc<Definition>,
    query: Option<String>,
    headers: &HeaderMap,
    upgrade: Upgrade,
) -> Response {
    let subscription = Subscription::open(shared, definition, query.as_deref().unwrap_or_default(), headers);
    match (subscription.await, upgrade) {
        (Err(error), _) => error.problem().into_response(),
        (Ok(subscription), Ok(upgrade)) => upgrade.on_upgrade(|socket| websocket(socket, subscription)),
        (Ok(_), Err(rejected)) if wants_websocket(headers) => rejected.into_response(),
        (Ok(subscription), Err(_)) => {
            let body = Body::from_stream(sse(subscription));
            rows::answer(Form::Events.content_type(), body)
        }
    }
}

impl Subscription {
    async fn open(
        shared: Arc<Shared>,
        definition: &Arc<Definition>,
        query: &str,
        headers: &HeaderMap,
    ) -> Result<Self, QueryError> {
        let mut reading = Reading::parse(query, From::Latest, &KNOWN)?;
        // A browser that reconnects sends both: the place where it was counts.
        if let Some(last) = headers.get(LAST_EVENT_ID).and_then(|last| last.to_str().ok())
            && !last.is_empty()
        {
            reading.from = events::from(LAST_EVENT_ID, last)?;
        }
        let permit = shared.live_permit()?;
        let mut catalog = shared.parts.catalog.subscribe();
        // It may have changed since the definition was looked up.
        catalog.mark_changed();
        let reader = reading.open(&shared, definition).await?;
        Ok(Self {
            position: reader.position(),
            catalog,
            definition: Arc::clone(definition),
            reader,
            shared,
            _permit: permit,
        })
    }

    /// What there is to tell next. Safe to cancel.
    async fn next(&mut self) -> News {
        loop {
            match self.reader.next().await {
                Ok(Some((partition, batch))) => {
                    let messages = self.messages(partition, batch.base, &batch.rows);
                    return messages.map_or_else(|error| News::Problem(error.problem().to_json()), News::Messages);
                }
                Ok(None) => {}
                Err(error) => return self.failed(error),
            }
            let (clock, stop) = (&self.shared.parts.clock, &self.shared.parts.stop);
            let heartbeat: Duration = self.shared.options.heartbeat;
            tokio::select! {
                changed = self.catalog.changed() => if changed.is_err() || !self.is_current() {
                    return self.gone();
                },
                waited = self.reader.wait() => if let Err(error) = waited {
                    return self.failed(error);
                },
                () = clock.sleep(heartbeat) => return self.silence(),
                () = stop.cancelled() => return News::End("the server is stopping".to_owned()),
            }
        }
    }

    fn messages(
        &mut self,
        partition: u32,
        base: Offset,
        batch: &RecordBatch,
    ) -> Result<Vec<(String, Vec<u8>)>, QueryError> {
        let (data, ops) = changes::split(batch)?;
        let rows = JsonRows::new(&data)?;
        let mut messages = Vec::with_capacity(data.num_rows());
        for row in 0..data.num_rows() {
            let offset = base + row as u64;
            self.position.advance(partition, offset + 1);
            let message = Message {
                partition,
                offset,
                position: Some(&self.position),
                op: ops.as_ref().and_then(|ops| ops.get(row).copied()),
            };
            let mut text = Vec::with_capacity(256);
            message::write(&message, &rows, row, &mut text)?;
            messages.push((self.position.to_string(), text));
        }
        Ok(messages)
    }

    fn failed(&self, error: LogError) -> News {
        match error {
            LogError::UnknownTopic(_) => self.gone(),
            LogError::Damaged { .. } => News::Problem(QueryError::Log(error).problem().to_json()),
            error => News::End(error.to_string()),
        }
    }

    fn silence(&self) -> News {
        match self.is_current() {
            true => News::Silence,
            false => self.gone(),
        }
    }

    fn is_current(&self) -> bool {
        let snapshot = self.shared.parts.catalog.snapshot();
        let current = snapshot.get(&self.definition.name);
        current.is_some_and(|current| current.id == self.definition.id)
    }

    fn gone(&self) -> News {
        let name = &self.definition.name;
        News::Gone(match self.shared.parts.catalog.snapshot().get(name) {
            Some(_) => format!("'{name}' was replaced: read it anew, and subscribe without a position"),
            None => format!("'{name}' was dropped"),
        })
    }
}

/// Other upgrades, such as `h2c`, may be offered by clients that are content without.
fn wants_websocket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(UPGRADE).map(|upgrade| upgrade.as_bytes());
    upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case(b"websocket"))
}

fn sse(subscription: Subscription) -> impl Stream<Item = Result<Bytes, QueryError>> {
    stream::unfold(Some(subscription), |subscription| async {
        let mut subscription = subscription?;
        let mut out = Vec::new();
        match subscription.next().await {
            News::Messages(messages) => {
                for (position, message) in messages {
                    out.extend_from_slice(b"id: ");
                    out.extend_from_slice(position.as_bytes());
                    out.extend_from_slice(b"\ndata: ");
                    out.extend_from_slice(&message);
                    out.extend_from_slice(b"\n\n");
                }
            }
            News::Silence => out.extend_from_slice(b":\n\n"),
            News::Problem(problem) => out = format!("event: error\ndata: {problem}\n\n").into_bytes(),
            News::End(reason) => return Some((Ok(format!("event: end\ndata: {reason}\n\n").into()), None)),
            News::Gone(reason) => {
                // The empty id makes a browser that connects again forget the position.
                return Some((Ok(format!("event: end\nid\ndata: {reason}\n\n").into()), None));
            }
        }
        Some((Ok(Bytes::from(out)), Some(subscription)))
    })
}

async fn websocket(mut socket: WebSocket, mut subscription: Subscription) {
    loop {
        let news = tokio::select! {
            news = subscription.next() => news,
            // Nothing is expected of the client but its answers to pings and its goodbye.
            received = socket.recv() => match received {
                Some(Ok(Frame::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
        };
        let sent = match news {
            News::Messages(messages) => send_all(&mut socket, messages).await,
            News::Silence => socket.send(Frame::Ping(Bytes::new())).await,
            News::Problem(problem) => socket.send(Frame::text(format!("{{\"error\":{problem}}}"))).await,
            News::End(reason) | News::Gone(reason) => {
                let end = serde_json::json!({ "end": reason }).to_string();
                // It is over, whether the client hears it or not.
                let _ = socket.send(Frame::text(end)).await;
                let _ = socket.send(Frame::Close(None)).await;
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn send_all(socket: &mut WebSocket, messages: Vec<(String, Vec<u8>)>) -> Result<(), axum::Error> {
    for (_, message) in messages {
        let text = Utf8Bytes::try_from(Bytes::from(message)).map_err(axum::Error::new)?;
        socket.send(Frame::Text(text)).await?;
    }
    Ok(())
}
