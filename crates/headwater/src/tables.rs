//! The tables that are kept elsewhere, as the engine wants them: connectors know nothing of it, nor it of them.

use std::sync::Arc;

use arrow::array::ArrayRef;
use async_trait::async_trait;
use headwater_connect::lookup::{self, Lookups};
use headwater_engine::error::Result;
use headwater_engine::lookup::{Found, Table};

#[derive(Debug)]
pub struct Tables(pub Arc<Lookups>);

struct Opened(Arc<lookup::Table>);

impl headwater_engine::lookup::Tables for Tables {
    fn open(&self, table: &str) -> Option<Arc<dyn Table>> {
        let table = self.0.get(table)?;
        Some(Arc::new(Opened(table)))
    }
}

#[async_trait]
impl Table for Opened {
    async fn rows(&self, keys: &[ArrayRef]) -> Result<Found> {
        let found = self.0.rows(keys).await?;
        Ok(Found {
            rows: found.rows,
            places: found.places,
            unusable: found.unusable,
        })
    }
}
