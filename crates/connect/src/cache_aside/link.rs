//! The way to a cache that may be away: nobody waits long for it, and for a while after a failure nobody tries.

use std::fmt::Display;
use std::time::Duration;

use headwater_event::clock::Clock;
use metrics::counter;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use tracing::{info, warn};

use crate::address::{Address, Unconnected};
use crate::redis::{Timeouts, connect};
use crate::source::Error;
use crate::within::Within;

/// How a cache is dealt with.
#[derive(Debug)]
pub(crate) struct Manner {
    /// What is done with it, for metrics: `read` or `write`.
    pub(crate) what: &'static str,
    pub(crate) timeouts: Timeouts,
    /// After a failure it is left alone for so long.
    pub(crate) alone: Duration,
    /// And for so long when it is back.
    pub(crate) settle: Duration,
    /// Said when it fails.
    pub(crate) without: &'static str,
}

pub(crate) struct Link {
    address: Address,
    manner: Manner,
    /// Of whoever connects.
    connecting: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connection: Option<MultiplexedConnection>,
    alone_until: Duration,
    is_failing: bool,
}

enum Now {
    LeftAlone,
    Connected(MultiplexedConnection),
    Unconnected,
}

impl Link {
    pub(crate) fn new(address: Address, manner: Manner) -> Self {
        Self {
            address,
            manner,
            connecting: tokio::sync::Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// Looks whether the server would have us. One that can't be reached is no error.
    pub(crate) async fn look(&self, within: &Within) -> Result<(), Error> {
        let url = self.address.resolve(within)?;
        match connect(&url, self.manner.timeouts).await {
            Ok(_) | Err(Unconnected::Unreachable(_)) => Ok(()),
            Err(Unconnected::Refused(error)) => Err(error),
        }
    }

    /// None where it is left alone at present. While somebody connects, others don't wait for that.
    pub(crate) async fn connection(&self, clock: &dyn Clock, within: &Within) -> Option<MultiplexedConnection> {
        match self.now(clock) {
            Now::LeftAlone => return None,
            Now::Connected(connection) => return Some(connection),
            Now::Unconnected => {}
        }
        let _connecting = self.connecting.try_lock().ok()?;
        match self.now(clock) {
            Now::LeftAlone => return None,
            Now::Connected(connection) => return Some(connection),
            Now::Unconnected => {}
        }
        let connected = match self.address.resolve(within) {
            Ok(url) => connect(&url, self.manner.timeouts).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        match connected {
            Ok(connection) => self.connected(connection, clock),
            Err(error) => {
                self.failed(&error, clock);
                None
            }
        }
    }

    /// It could not be asked.
    pub(crate) fn failed(&self, error: &dyn Display, clock: &dyn Clock) {
        counter!("headwater_cache_errors_total", "of" => self.manner.what).increment(1);
        let mut state = self.state.lock();
        state.connection = None;
        state.alone_until = clock.elapsed() + self.manner.alone;
        if !state.is_failing {
            state.is_failing = true;
            let (url, without) = (self.address.text(), self.manner.without);
            warn!(url, %error, "the cache does not answer: {without}");
        }
    }

    /// The connection is of no use any more; the next one may be.
    pub(crate) fn forget(&self) {
        self.state.lock().connection = None;
    }

    fn now(&self, clock: &dyn Clock) -> Now {
        let state = self.state.lock();
        match &state.connection {
            _ if clock.elapsed() < state.alone_until => Now::LeftAlone,
            Some(connection) => Now::Connected(connection.clone()),
            None => Now::Unconnected,
        }
    }

    fn connected(&self, connection: MultiplexedConnection, clock: &dyn Clock) -> Option<MultiplexedConnection> {
        let mut state = self.state.lock();
        state.connection = Some(connection.clone());
        if !state.is_failing {
            return Some(connection);
        }
        info!(url = self.address.text(), "the cache answers again");
        state.is_failing = false;
        state.alone_until = clock.elapsed() + self.manner.settle;
        self.manner.settle.is_zero().then_some(connection)
    }
}
