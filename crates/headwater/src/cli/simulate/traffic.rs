//! Sends made-up events at a steady rate and counts what becomes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headwater_event::clock::Clock;
use parking_lot::Mutex;
use reqwest::StatusCode;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::cli::client::Client;
use crate::cli::failure::{Failed, Failure};
use crate::cli::simulate::clickstream::Clickstream;

/// Events are gathered for so long and sent as one request.
const TICK: Duration = Duration::from_millis(20);
const IN_FLIGHT_MAX: usize = 8;
const BATCH_ROWS_MAX: u64 = 20_000;
/// Latencies that are remembered between two looks at them.
const LATENCIES_MAX: usize = 10_000;

#[derive(Debug)]
pub struct Traffic {
    client: Client,
    clock: Arc<dyn Clock>,
    stream: String,
    /// Events per second.
    rate: u32,
    made: AtomicU64,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    latencies_ms: Mutex<Vec<f64>>,
    /// What was acknowledged and refused at the last look.
    seen: Mutex<Totals>,
    failure: Mutex<Option<Failure>>,
    broken: CancellationToken,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub acknowledged: u64,
    pub refused: u64,
}

/// What happened since the last look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Second {
    pub acknowledged: u64,
    pub refused: u64,
    /// Made and not answered yet.
    pub waiting: u64,
    /// From sending to the durable answer: the median and the 99th percentile.
    pub latency_ms: Option<(f64, f64)>,
}

impl Traffic {
    pub fn new(client: Client, clock: Arc<dyn Clock>, stream: String, rate: u32) -> Arc<Self> {
        Arc::new(Self {
            client,
            clock,
            stream,
            rate,
            made: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            latencies_ms: Mutex::default(),
            seen: Mutex::default(),
            failure: Mutex::default(),
            broken: CancellationToken::new(),
        })
    }

    /// Sends until `stop`, or until the server says something that trying again won't change.
    /// A server that can't keep up gets less, never more than [`IN_FLIGHT_MAX`] requests at once.
    pub async fn run(self: Arc<Self>, mut clicks: Clickstream, stop: CancellationToken) -> Failed {
        let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let mut due = 0.0;
        let mut last = self.clock.elapsed();
        while !stop.is_cancelled() && !self.broken.is_cancelled() {
            self.clock.sleep(TICK).await;
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                break;
            };
            let now = self.clock.elapsed();
            // What a slow server did not take is not made up for later.
            let passed = (now - last).min(Duration::from_secs(1));
            last = now;
            due += passed.as_secs_f64() * f64::from(self.rate);
            let count = (due as u64).min(BATCH_ROWS_MAX);
            if count == 0 {
                continue;
            }
            due = (due - count as f64).min(BATCH_ROWS_MAX as f64);
            let body = self.make(&mut clicks, count);
            let traffic = Arc::clone(&self);
            tokio::spawn(async move {
                traffic.send(body, count).await;
                drop(permit);
            });
        }
        // All requests are answered when all permits are back.
        let _all = room.acquire_many(IN_FLIGHT_MAX as u32).await;
        self.failure.lock().take().map_or(Ok(()), Err)
    }

    /// Returns when it makes no sense to go on.
    pub async fn broken(&self) {
        self.broken.cancelled().await;
    }

    pub fn totals(&self) -> Totals {
        Totals {
            acknowledged: self.acknowledged.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// What happened since this was called last.
    pub fn second(&self) -> Second {
        let totals = self.totals();
        let mut seen = self.seen.lock();
        let latencies = std::mem::take(&mut *self.latencies_ms.lock());
        let second = Second {
            acknowledged: totals.acknowledged - seen.acknowledged,
            refused: totals.refused - seen.refused,
            waiting: self
                .made
                .load(Ordering::Relaxed)
                .saturating_sub(totals.acknowledged + totals.refused),
            latency_ms: percentiles(latencies),
        };
        *seen = totals;
        second
    }

    fn make(&self, clicks: &mut Clickstream, count: u64) -> Vec<u8> {
        let mut body = Vec::new();
        let now = self.clock.now();
        (0..count).for_each(|_| clicks.write(now, &mut body));
        self.made.fetch_add(count, Ordering::Relaxed);
        body
    }

    async fn send(&self, body: Vec<u8>, count: u64) {
        let started = self.clock.elapsed();
        let request = self.client.post(&["v1", "streams", &self.stream, "events"]);
        let request = request.header("content-type", "application/x-ndjson").body(body);
        let response = match self.client.answer(request).await {
            Ok(response) => response,
            Err(failure) => return self.give_up(failure, count),
        };
        match response.status() {
            status if status.is_success() => {
                self.acknowledged.fetch_add(count, Ordering::Relaxed);
                let mut latencies = self.latencies_ms.lock();
                if latencies.len() < LATENCIES_MAX {
                    latencies.push((self.clock.elapsed() - started).as_secs_f64() * 1000.0);
                }
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                self.refused.fetch_add(count, Ordering::Relaxed);
                self.clock.sleep(Duration::from_millis(200)).await;
            }
            _ => {
                let problem = self.client.problem(response).await;
                self.give_up(Failure::failed(problem.render("")), count);
            }
        }
    }

    fn give_up(&self, failure: Failure, count: u64) {
        self.refused.fetch_add(count, Ordering::Relaxed);
        self.failure.lock().get_or_insert(failure);
        self.broken.cancel();
    }
}

/// The median and the 99th percentile.
fn percentiles(mut values: Vec<f64>) -> Option<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some((values[last / 2], values[last * 99 / 100]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_few_and_many() {
        assert_eq!(percentiles(vec![]), None);
        assert_eq!(percentiles(vec![3.0]), Some((3.0, 3.0)));
        assert_eq!(percentiles((0..101).map(f64::from).rev().collect()), Some((50.0, 99.0)));
    }
}
