//! Watches the free space of the disk, so that the log stops writing while there is still room
//! to finish what the store does in the background. The operating system is asked again after
//! a short time or some written bytes, and always while the disk is full.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headwater_event::clock::Clock;

use crate::embedded::options::{EmbeddedOptions, FreeSpace};
use crate::error::{Error, Result};

const ASK_EVERY: Duration = Duration::from_millis(500);
const ASK_EVERY_BYTES: u64 = 16 << 20;

pub(super) struct Space {
    clock: Arc<dyn Clock>,
    free_space: FreeSpace,
    directory: PathBuf,
    free_bytes_min: u64,
    asked: Option<Asked>,
}

struct Asked {
    at: Duration,
    free_bytes: u64,
    written_bytes: u64,
}

impl Space {
    pub fn new(options: &EmbeddedOptions, clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            free_space: options.free_space.clone(),
            directory: options.directory.clone(),
            free_bytes_min: options.disk_free_bytes_min,
            asked: None,
        }
    }

    /// Takes `bytes` from what is free, or fails and takes nothing.
    pub fn take(&mut self, bytes: u64) -> Result<()> {
        let now = self.clock.elapsed();
        let fresh = self
            .asked
            .take()
            .filter(|asked| now.saturating_sub(asked.at) < ASK_EVERY && asked.written_bytes + bytes < ASK_EVERY_BYTES);
        let mut asked = match fresh {
            Some(asked) => asked,
            None => self.ask(now)?,
        };
        let left = asked.free_bytes.saturating_sub(asked.written_bytes + bytes);
        if left < self.free_bytes_min {
            // Not kept: the next attempt asks again, so writing goes on as soon as there is room.
            return Err(Error::DiskFull {
                directory: self.directory.clone(),
                free_bytes: asked.free_bytes,
                free_bytes_min: self.free_bytes_min,
            });
        }
        asked.written_bytes += bytes;
        self.asked = Some(asked);
        Ok(())
    }

    fn ask(&self, at: Duration) -> Result<Asked> {
        let free_bytes = (self.free_space)(&self.directory).map_err(|source| Error::Io {
            path: self.directory.clone(),
            source,
        })?;
        Ok(Asked {
            at,
            free_bytes,
            written_bytes: 0,
        })
    }
}
