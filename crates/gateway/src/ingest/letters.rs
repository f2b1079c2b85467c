//! Events that don't fit, as they go to `dead_letters`: whole, however long they are. So a body's
//! letters hold no more bytes than the body.

use headwater_event::clock::Micros;
use headwater_schema::dead_letter::DeadLetter;
use headwater_schema::decode::Failure;

use crate::ingest::lane::Lane;

/// What dead letters say of events that could not be decoded.
pub(super) const REASON: &str = "decode";

/// Adds a dead letter for each failure of a body.
pub(super) fn write(
    letters: &mut Vec<DeadLetter>,
    lane: &Lane,
    body: &[u8],
    failures: &[Failure],
    source: &str,
    now: Micros,
) {
    letters.extend(failures.iter().map(|failure| {
        let event = body.get(failure.span.clone()).unwrap_or_default();
        DeadLetter {
            time: now,
            stream: lane.definition.name.clone(),
            source: source.to_owned(),
            reason: REASON.to_owned(),
            detail: format!("event {}, {failure}", failure.index),
            payload: Some(event.to_vec()),
        }
    }));
}

/// What the letters take beside the bodies that they are copied from.
pub(super) fn bytes(letters: &[DeadLetter]) -> usize {
    let of_one = |letter: &DeadLetter| size_of::<DeadLetter>() + letter.payload.as_ref().map_or(0, Vec::len);
    letters.iter().map(of_one).sum()
}
