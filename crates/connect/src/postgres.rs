//! What everything that speaks to Postgres shares: how to get a connection, the names of tables, and values in the server's binary form.

pub(crate) mod columns;
pub(crate) mod connection;
pub(crate) mod name;
