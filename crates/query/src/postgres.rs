//! The Postgres wire protocol: `psql`, drivers, and what is built on them.
//!
//! * [`handlers`]: a connection's statements, by the simple and the extended protocol.
//! * [`prepared`]: statements parsed and planned ahead, with their parameters.
//! * [`named`]: `PREPARE`, `EXECUTE` and `DEALLOCATE` in SQL.
//! * [`introspection`]: what clients ask about tables and types, answered from `pg_catalog`.
//! * [`functions`]: what `datafusion-pg-catalog` lacks for that.
//! * [`settings`]: `SET`, `SHOW`, `BEGIN` and others that clients say out of habit.
//! * [`rows`]: rows and errors as the protocol has them.
//!
//! Streams show as tables, views as views. Everyone who can connect may do everything; by default
//! that is this machine alone.

mod functions;
mod handlers;
mod introspection;
mod live;
mod named;
mod prepared;
mod rows;
mod settings;

use std::io;
use std::sync::Arc;

use metrics::gauge;
use pgwire::tokio::process_socket;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::postgres::handlers::Handlers;
use crate::shared::Shared;

/// The only user and the only database.
pub const NAME: &str = "headwater";

/// Serves connections until `shutdown`, then ends those that there are.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, shutdown: CancellationToken) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(shared.options.postgres_connections_max));
    let handlers = Arc::new(Handlers::new(shared));
    let connections = TaskTracker::new();
    loop {
        let socket = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    // Of this connection, or too many open files: others may still succeed.
                    warn!(%error, "a connection to the Postgres port failed");
                    tokio::task::yield_now().await;
                    continue;
                }
            },
            () = shutdown.cancelled() => break,
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            warn!("a connection to the Postgres port was refused: there are as many as there may be");
            continue;
        };
        let (handlers, shutdown) = (Arc::clone(&handlers), shutdown.clone());
        connections.spawn(async move {
            tokio::select! {
                () = connection(socket, handlers) => {}
                () = shutdown.cancelled() => {}
            }
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
    Ok(())
}

async fn connection(socket: TcpStream, handlers: Arc<Handlers>) {
    let connections = gauge!("headwater_postgres_connections");
    connections.increment(1.0);
    // Small answers must not wait for more to come; without it they come too, only later.
    let _ = socket.set_nodelay(true);
    if let Err(error) = process_socket(socket, None, handlers).await {
        debug!(%error, "a connection to the Postgres port ended");
    }
    connections.decrement(1.0);
}
