//! What a fuzz target calls: one input, every promise checked.

use crate::column::EventSchema;
use crate::decode::{Decoder, Format, OnError};
use std::sync::Arc;

use headwater_event::id::Ids;

/// Decodes `body` in both ways and panics where a promise is broken: failures lie within the body,
/// in order and without overlap; a rejected body leaves no row; what is left makes a batch; and
/// the decoder takes the same input again with the same result.
pub fn fuzz(schema: &EventSchema, ids: &Arc<Ids>, body: &[u8], format: Format) {
    let mut decoder = Decoder::new(schema, Arc::clone(ids));
    let rejected = decoder.decode(body, format, OnError::Reject, 0);
    assert_eq!(rejected.rejected, rejected.failed > 0, "any failure rejects");
    assert!(
        !rejected.rejected || (rejected.rows == 0 && decoder.rows() == 0),
        "a rejected body leaves no row"
    );
    decoder.clear();
    let decoded = decoder.decode(body, format, OnError::Collect, 0);
    assert_eq!(decoded.failed, decoded.failures.len(), "every failure is told");
    assert!(!decoded.rejected || decoded.rows == 0, "a rejected body leaves no row");
    let mut end = 0;
    for failure in &decoded.failures {
        let span = &failure.span;
        assert!(
            end <= span.start && span.start <= span.end && span.end <= body.len(),
            "{failure:?} in range and order"
        );
        assert!(
            failure.line > 0 && failure.column > 0 && !failure.message.is_empty(),
            "{failure:?} says where"
        );
        end = span.end;
    }
    let batch = decoder.finish();
    assert_eq!(batch.num_rows(), decoded.rows, "the batch has the rows");
    let again = decoder.decode(body, format, OnError::Collect, 0);
    assert_eq!(
        (again.rows, again.failures),
        (decoded.rows, decoded.failures),
        "the same input, the same result"
    );
}
