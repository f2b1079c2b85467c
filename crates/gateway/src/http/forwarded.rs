//! `POST /internal/streams/{stream}/rows?id=…`: rows that another gateway of the same cluster has decoded and checked, of a stream whose
//! idempotency keys are here ([`crate::ingest::forward`]). Whoever else asks finds nothing. The answer is a byte for each row, 1 where it was stored and 0 where it
//! had been stored before; its header [`crate::http::OFFSET_HEADER`] says where.

use std::sync::Arc;

use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use headwater_problem::{Problem, ProblemKind};
use serde::Deserialize;

use crate::http::{HttpDoor, body, say};
use crate::ingest::Kept;
use crate::ingest::forward::{self, SECRET_HEADER};

#[derive(Deserialize)]
pub struct Of {
    /// The definition that the rows were made for.
    id: u64,
}

pub async fn store(
    State(door): State<Arc<HttpDoor>>,
    Path(stream): Path<String>,
    Query(of): Query<Of>,
    request: Request,
) -> Response {
    match take(&door, &stream, of.id, request).await {
        Ok(kept) => {
            let fresh: Vec<u8> = kept.fresh.into_iter().map(u8::from).collect();
            let mut response = fresh.into_response();
            say(&kept.stored.to_string(), &mut response);
            response
        }
        Err(problem) => problem.into_response(),
    }
}

async fn take(door: &HttpDoor, stream: &str, id: u64, request: Request) -> Result<Kept, Problem> {
    let (head, body) = request.into_parts();
    let secret = head.headers.get(SECRET_HEADER).and_then(|secret| secret.to_str().ok());
    if !secret.is_some_and(|secret| door.ingest.admits(secret)) {
        return Err(Problem::new(ProblemKind::NotFound, "there is nothing for clients here"));
    }
    let (bytes, reservation) = body::read(door, &head.headers, body).await?;
    let rows = forward::decode(&bytes)
        .map_err(|error| Problem::new(ProblemKind::InvalidBody, format!("no rows of another gateway: {error}")))?;
    Ok(door.ingest.store_forwarded(stream, id, rows, reservation).await?)
}
