//! What flows through Headwater, and the words for it.
//!
//! | word | meaning |
//! |---|---|
//! | *event* | one thing that happened |
//! | *batch* | rows of events in columns: an Arrow `RecordBatch` |
//! | *stream* | a named, typed, partitioned sequence of events |
//! | *topic, partition, offset* | where the log keeps it; offsets increase, and need not be dense |
//! | *watermark* | the time up to which a stream is thought complete |
//! | *view* | a result kept current |
//! | *rule* | a standing query whose rows are alerts |
//! | *stage* | a chain of operators between two topics |
//! | *task* | a stage on one partition |
//! | *epoch* | what one commit covers |
//! | *source, sink* | ways in and out to other systems |
//! | *subject, version* | a schema's |
//! | *tier* | hot, warm, cold |
//! | *dead letter* | an event that could not go on, with its reason |
//!
//! This crate holds the types behind the words that every other crate shares. It knows no file,
//! no socket, no SQL; the machine's clock is read in [`clock`] and nowhere else in the workspace.

pub mod changes;
pub mod clock;
pub mod id;
pub mod offset;
pub mod op;
pub mod partition;
pub mod room;
pub mod stored;
pub mod watermark;
