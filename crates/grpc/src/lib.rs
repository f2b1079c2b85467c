//! What the gRPC doors share: the messages and services of `proto/`, problems as statuses, and what every call goes
//! through.
//!
//! Knows neither streams nor queries: the services are in `gateway` and `query`, and the assembly opens the port.

pub mod observe;
pub mod status;

/// The messages, services and clients of the package `headwater.v1`.
#[allow(clippy::all, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("headwater.v1");
}

impl From<v1::value::Kind> for v1::Value {
    fn from(kind: v1::value::Kind) -> Self {
        Self { kind: Some(kind) }
    }
}

/// The definitions as they are compiled, for reflection.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("descriptors");
