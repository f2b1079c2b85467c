//! The table `headwater_delivery` in the target: how far each sink is, written in the transaction of its rows.
//!
//! A row has the sink's identity, its name for people, the next offset of each partition, and an *epoch*, which grows by one
//! whenever somebody begins to deliver. Who comes with an older one is a zombie: its transaction changes no row here, and
//! is not committed. While a transaction has written its position, a newer epoch waits for it; the sessions of whoever came before are ended, so that nobody waits for a
//! process that was frozen.

use tokio_postgres::Client;

use crate::postgres::name::{Name, is_there, quoted, said};
use crate::sink::Offsets;
use crate::source::Error;

const TABLE: &str = "headwater_delivery";

pub(super) struct Position {
    /// In SQL.
    table: String,
    identity: String,
    epoch: i64,
}

/// What the server shows as the name of a sink's session.
pub(super) fn session_name(identity: &str) -> String {
    format!("headwater {identity}")
}

impl Position {
    /// Takes over, with the position that the last transaction left. `beside` is the table that rows go to; `is_new` says that nothing
    /// was ever delivered.
    pub(super) async fn take(
        client: &Client,
        beside: &Name,
        (name, identity): (&str, &str),
        is_new: bool,
    ) -> Result<(Self, Offsets), Error> {
        let table = beside.beside(TABLE);
        if !is_there(client, &table).await? {
            let create = format!(
                "CREATE TABLE IF NOT EXISTS {} (identity text PRIMARY KEY, sink text NOT NULL, epoch bigint NOT NULL,
                 next_offsets bigint[] NOT NULL, delivered_at timestamptz NOT NULL DEFAULT now())",
                table.sql()
            );
            client.batch_execute(&create).await.map_err(said)?;
        }
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE application_name = $1 AND usename = current_user AND datname = current_database() AND pid <> pg_backend_pid()";
        client.execute(end, &[&session_name(identity)]).await.map_err(said)?;
        let table = table.sql();
        if is_new {
            let insert = format!(
                "INSERT INTO {table} (identity, sink, epoch, next_offsets) VALUES ($1, $2, 0, '{{}}') ON CONFLICT DO NOTHING"
            );
            client.execute(&insert, &[&identity, &name]).await.map_err(said)?;
        }
        let begin = format!("UPDATE {table} SET epoch = epoch + 1 WHERE identity = $1 RETURNING epoch, next_offsets");
        let found = client.query_opt(&begin, &[&identity]).await.map_err(said)?;
        let Some(row) = found else {
            return Err(Error::outside(format!(
                "the table {table} has lost the row of this sink, {identity}, which says how far it is: put it back, or drop the sink and \
                 create it again where duplicates do no harm"
            )));
        };
        let offsets: Vec<Option<i64>> = row.get(1);
        let offsets = (0..)
            .zip(offsets)
            .filter_map(|(partition, offset)| Some((partition, u64::try_from(offset?).ok()?)));
        let position = Self {
            table,
            identity: identity.to_owned(),
            epoch: row.get(0),
        };
        Ok((position, offsets.collect()))
    }

    /// Writes the position into the transaction that is open.
    pub(super) async fn write(&self, client: &Client, next: &Offsets) -> Result<(), Error> {
        let partitions = next.last_key_value().map_or(0, |(last, _)| last + 1);
        let offset = |partition| next.get(&partition).and_then(|offset| i64::try_from(*offset).ok());
        let offsets: Vec<Option<i64>> = (0..partitions).map(offset).collect();
        let update = format!(
            "UPDATE {} SET next_offsets = $3, delivered_at = now() WHERE identity = $1 AND epoch = $2",
            self.table
        );
        let written = client.execute(&update, &[&self.identity, &self.epoch, &offsets]).await;
        match written.map_err(said)? {
            1 => Ok(()),
            _ => Err(Error::Taken(format!(
                "another process delivers for this sink: the epoch in {} is no longer {}",
                quoted(TABLE),
                self.epoch
            ))),
        }
    }
}

/// The sink is no more, and nor is its row.
pub(super) async fn forget(client: &Client, beside: &Name, identity: &str) -> Result<(), Error> {
    let table = beside.beside(TABLE);
    if is_there(client, &table).await? {
        let delete = format!("DELETE FROM {} WHERE identity = $1", table.sql());
        client.execute(&delete, &[&identity]).await.map_err(said)?;
    }
    Ok(())
}
