//! A session with Redis, and the hash `headwater:delivery:{identity}` in which it keeps how far the sink is.
//!
//! Its fields are the sink's name, the next offset of each partition under the partition's number, and an *epoch*, which grows by one whenever
//! somebody begins to deliver. A transaction is watched from when the epoch was looked at: a zombie's is not carried out.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisResult, Value};

use crate::redis::{Timeouts, said};
use crate::sink::{Offsets, Start};
use crate::source::Error;

/// An answer is also one to a transaction, which may be large.
pub(super) const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(10),
    answer: Duration::from_secs(30),
};
const EPOCH: &str = "epoch";

pub(super) struct Session {
    connection: MultiplexedConnection,
    /// The key of the position.
    position: String,
    epoch: u64,
}

impl Session {
    /// Takes over, with the position that is there.
    pub(super) async fn take(
        mut connection: MultiplexedConnection,
        start: &Start<'_>,
    ) -> Result<(Self, Offsets), Error> {
        let position = key_of(start.identity);
        let mut take = redis::pipe();
        take.atomic();
        take.cmd("HSET").arg(&position).arg("sink").arg(start.name).ignore();
        take.cmd("HINCRBY").arg(&position).arg(EPOCH).arg(1);
        take.cmd("HGETALL").arg(&position);
        let taken = take.query_async(&mut connection).await;
        let (epoch, fields): (u64, HashMap<String, String>) = taken.map_err(said)?;
        let offset = |(partition, offset): (String, String)| Some((partition.parse().ok()?, offset.parse().ok()?));
        let session = Self {
            connection,
            position,
            epoch,
        };
        Ok((session, fields.into_iter().filter_map(offset).collect()))
    }

    /// Carries out the commands together with the new position, or nothing of it.
    pub(super) async fn commit(&mut self, mut commands: Pipeline, next: &Offsets) -> Result<(), Error> {
        let mut look = redis::pipe();
        look.cmd("WATCH").arg(&self.position).ignore();
        look.cmd("HGET").arg(&self.position).arg(EPOCH);
        let (epoch,): (Option<u64>,) = look.query_async(&mut self.connection).await.map_err(said)?;
        let Some(epoch) = epoch else {
            return Err(Error::outside(format!(
                "Redis has lost {}, which says how far the sink is: all that is kept is delivered again",
                self.position
            )));
        };
        if epoch != self.epoch {
            return Err(self.taken());
        }
        commands.atomic();
        let fields = commands.cmd("HSET").arg(&self.position).arg(EPOCH).arg(epoch);
        for (partition, offset) in next {
            fields.arg(partition).arg(offset);
        }
        let done: Value = commands.query_async(&mut self.connection).await.map_err(said)?;
        match done {
            Value::Nil => Err(self.taken()),
            _ => Ok(()),
        }
    }

    /// Asks the same about each key.
    pub(super) async fn ask(&mut self, command: &str, keys: &[&Vec<u8>]) -> Result<Vec<RedisResult<Value>>, Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut asked = redis::pipe();
        asked.ignore_errors();
        for key in keys {
            asked.cmd(command).arg(*key);
        }
        asked.query_async(&mut self.connection).await.map_err(said)
    }

    fn taken(&self) -> Error {
        Error::Taken(format!(
            "another process delivers for this sink: the epoch in {} is no longer {}",
            self.position, self.epoch
        ))
    }
}

/// The sink is no more, and nor is its position.
pub(super) async fn forget(connection: &mut MultiplexedConnection, identity: &str) -> Result<(), Error> {
    let forget = redis::cmd("DEL").arg(key_of(identity)).exec_async(connection).await;
    forget.map_err(said)
}

fn key_of(identity: &str) -> String {
    format!("headwater:delivery:{identity}")
}
