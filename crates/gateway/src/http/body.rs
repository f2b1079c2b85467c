//! Reading a request's body, within bounds: its size, the room that is left for all bodies, and time.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use headwater_problem::{Problem, ProblemKind};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, EXPECT};
use http_body_util::BodyExt;

use crate::http::HttpDoor;
use crate::ingest::budget::Reservation;

/// The body as it came, and the room that it takes.
pub(super) async fn read(door: &HttpDoor, headers: &HeaderMap, body: Body) -> Result<(Bytes, Reservation), Problem> {
    let bytes_max = door.options.request_bytes_max;
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let length: Option<usize> = length.and_then(|length| length.parse().ok());
    let too_long = length.is_some_and(|length| length > bytes_max);
    if too_long && headers.contains_key(EXPECT) {
        // The client waits for our word before it sends anything.
        return Err(too_large(bytes_max));
    }
    // A body that is there already needs no timer: it is read at the first look.
    tokio::select! {
        biased;
        read = read_or_refuse(door, body, too_long) => read,
        () = door.clock.sleep(door.options.body_read_timeout) => {
            let seconds = door.options.body_read_timeout.as_secs();
            Err(Problem::new(ProblemKind::BodyTimeout, format!("the body had not come after {seconds} s"))
                .hint("send smaller bodies"))
        }
    }
}

async fn read_or_refuse(door: &HttpDoor, mut body: Body, too_long: bool) -> Result<(Bytes, Reservation), Problem> {
    let bytes_max = door.options.request_bytes_max;
    let read = match too_long {
        true => Err(too_large(bytes_max)),
        false => collect(door, &mut body).await,
    };
    if let Err(problem) = &read
        && problem.kind == ProblemKind::BodyTooLarge
    {
        discard(body, bytes_max).await;
    }
    read
}

/// Reads on for a while and throws away: a client that sends all before it listens would otherwise
/// find the connection closed and never hear why.
async fn discard(mut body: Body, mut bytes_max: usize) {
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        if bytes > bytes_max {
            return;
        }
        bytes_max -= bytes;
    }
}

async fn collect(door: &HttpDoor, body: &mut Body) -> Result<(Bytes, Reservation), Problem> {
    let bytes_max = door.options.request_bytes_max;
    let mut reservation = door.ingest.reserve(0)?;
    // The usual body is one piece, and is not copied.
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Problem::new(ProblemKind::InvalidBody, format!("the body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        reservation.grow(data.len())?;
        if first.is_empty() && rest.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.extend_from_slice(&std::mem::take(&mut first));
        }
        rest.extend_from_slice(&data);
    }
    let body = if rest.is_empty() { first } else { rest.freeze() };
    Ok((body, reservation))
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(
        ProblemKind::BodyTooLarge,
        format!("the body is larger than the {bytes_max} bytes that a request may have"),
    )
    .hint("send the events in several requests")
}
