//! A connection to Redis, as the URL says.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, ServerErrorKind};

use crate::address::Unconnected;
use crate::source::Error;

/// How long is waited for a server that says nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) answer: Duration,
}

/// `url` has its secrets.
pub(crate) async fn connect(url: &str, timeouts: Timeouts) -> Result<MultiplexedConnection, Unconnected> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timeouts.connect))
        .set_response_timeout(Some(timeouts.answer));
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

pub(crate) fn said(error: RedisError) -> Error {
    Error::outside(format!("Redis: {error}"))
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
