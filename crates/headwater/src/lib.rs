//! The binary: what a person types, the configuration, and the assembly of the parts.

pub mod bench;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod files;
pub mod grpc;
pub mod instance;
pub mod processor;
pub mod routes;
pub mod status;
pub mod storage;
mod tables;
