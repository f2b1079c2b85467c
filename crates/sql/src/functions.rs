//! The functions that Headwater adds to DataFusion's, the same in one-off and continuous queries.
//!
//! * [`json`]: nested data: `->`, `->>`, `?`, `json_get_int(…)` and its like.
//! * [`windows`]: the arithmetic behind `TUMBLE` and `HOP` in one-off queries.

pub mod json;
pub mod windows;
