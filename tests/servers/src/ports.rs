//! Ports for servers that are about to start.
//!
//! They lie below the ones the system gives to connections: one of those may be a connection's of some other test by the
//! time the server wants to listen, or when it is started again.

use std::net::TcpListener;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 10_240;
const COUNT: u32 = 20_480;

/// How many were given out; test programs that run side by side begin at different places.
static GIVEN: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(std::process::id().wrapping_mul(61)));

/// A port that nobody listens on at this moment, and that no other test is given.
pub fn free_port() -> u16 {
    let [port] = free_ports();
    port
}

/// Several in a row.
pub fn free_ports<const N: usize>() -> [u16; N] {
    loop {
        let count = u32::try_from(N).expect("few ports");
        let first = FIRST + GIVEN.fetch_add(count, Ordering::Relaxed) % (COUNT - count);
        let mut next = first;
        let ports = [(); N].map(|()| {
            next += 1;
            u16::try_from(next).expect("the range ends below 65536")
        });
        if ports.iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()) {
            return ports;
        }
    }
}
