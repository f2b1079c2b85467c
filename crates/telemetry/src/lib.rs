//! What Headwater tells about itself: log lines, metrics, and the id that ties the consequences of
//! a request together.
//!
//! [`logs`] says where log lines go and how they look; [`metrics`] holds the names of the metrics
//! and renders them for Prometheus; [`request`] gives every HTTP request an id and counts it.
//! Nothing here decides anything: the process does the same with all of it turned off.

pub mod logs;
pub mod metrics;
pub mod request;
