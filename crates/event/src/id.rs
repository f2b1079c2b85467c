//! Identifiers, from a source that is passed in: random in production, seeded in tests.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

use crate::clock::Clock;

/// Makes UUIDs of version 7: ordered by the clock, random behind it.
pub struct Ids {
    clock: Arc<dyn Clock>,
    random: Mutex<ChaCha8Rng>,
}

impl Ids {
    /// Seeded by the operating system.
    pub fn random(clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::seeded(clock, rand::rng().next_u64())
    }

    /// The same seed and clock give the same identifiers.
    pub fn seeded(clock: Arc<dyn Clock>, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            clock,
            random: Mutex::new(ChaCha8Rng::seed_from_u64(seed)),
        })
    }

    pub fn uuid(&self) -> Uuid {
        let millis = u64::try_from(self.clock.now() / 1000).unwrap_or(0);
        let random: [u8; 10] = self.random.lock().random();
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ids")
    }
}
