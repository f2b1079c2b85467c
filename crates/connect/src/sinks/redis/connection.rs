//! A connection to Redis, and the hash `headwater:delivery:{identity}` in which it keeps how far the sink is.
//!
//! Its fields are the sink's name, the next offset of each partition under the partition's number, and an *epoch*, which grows by one whenever
//! somebody begins to deliver. A transaction is watched from when the epoch was looked at: a zombie's is not carried out.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value};

use crate::address::Unconnected;
use crate::sink::{Offsets, Start};
use crate::source::Error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Also for a transaction, which may be large.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const EPOCH: &str = "epoch";

pub(super) struct Session {
    connection: MultiplexedConnection,
    /// The key of the position.
    position: String,
    epoch: u64,
}

/// `url` has its secrets.
pub(super) async fn connect(url: &str) -> Result<MultiplexedConnection, Unconnected> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(ANSWER_TIMEOUT));
    // The library's message may show the URL.
    let none = |_| {
        Unconnected::Refused(Error::outside(
            "the url is none of Redis: redis://user:password@host:6379/0",
        ))
    };
    let client = Client::open(url).map_err(none)?;
    let connected = client.get_multiplexed_async_connection_with_config(&config).await;
    let mut connection = connected.map_err(refused)?;
    let ping = redis::cmd("PING").exec_async(&mut connection).await;
    ping.map_err(refused)?;
    Ok(connection)
}

fn refused(error: RedisError) -> Unconnected {
    let is_final = matches!(
        error.kind(),
        ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig | ErrorKind::Server(ServerErrorKind::NoPerm)
    ) || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"));
    match is_final {
        true => Unconnected::Refused(said(error)),
        false => Unconnected::Unreachable(said(error)),
    }
}

pub(super) fn said(error: RedisError) -> Error {
    Error::outside(format!("Redis: {error}"))
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
