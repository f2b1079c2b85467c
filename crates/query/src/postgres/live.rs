//! Rows without an end: each is sent at once, until the client cancels or leaves.

use std::fmt::Debug;
use std::sync::Arc;

use futures::future::{Either, select};
use futures::{Sink, SinkExt, StreamExt};
use pgwire::api::results::Tag;
use pgwire::api::{ClientInfo, ConnectionHandle};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::data::RowDescription;

use crate::http::Rows;
use crate::postgres::rows::{Fields, encoded};

/// Sends rows until they end, one by one. `describe` sends their columns first, as the simple
/// protocol wants it.
pub async fn send<C>(client: &mut C, fields: Fields, rows: Rows, sql: Arc<str>, describe: bool) -> PgWireResult<()>
where
    C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
    C::Error: Debug,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    if describe {
        let columns = RowDescription::new(fields.iter().map(Into::into).collect());
        client.send(PgWireBackendMessage::RowDescription(columns)).await?;
    }
    let handle = client.session_extensions().get::<Arc<ConnectionHandle>>();
    let mut cancelled = match &handle {
        Some(handle) => Box::pin(handle.start_query().await),
        // Without a handle nobody can cancel: a receiver that is never told.
        None => return Err(PgWireError::NotReadyForQuery),
    };
    let mut rows = Box::pin(encoded(fields, rows, sql));
    let mut sent = 0;
    loop {
        let row = match select(rows.next(), &mut cancelled).await {
            Either::Left((row, _)) => row,
            Either::Right(_) => return Err(PgWireError::QueryCanceled),
        };
        let Some(row) = row else {
            break;
        };
        client.send(PgWireBackendMessage::DataRow(row?)).await?;
        sent += 1;
    }
    let tag = Tag::new("SELECT").with_rows(sent);
    client.send(PgWireBackendMessage::CommandComplete(tag.into())).await?;
    Ok(())
}
