//! What there is: streams, views and sources, their definitions and versions.
//!
//! The catalog is a compacted topic of the log. Every process tails it, and that is hot reload:
//! whoever wants to know follows [`store::Catalog::subscribe`]. It knows no SQL beyond keeping the
//! text of the statement that made an object.

pub mod dead_letters;
pub mod definition;
pub mod snapshot;
pub mod store;
pub mod successor;
