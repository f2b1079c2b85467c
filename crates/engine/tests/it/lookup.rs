//! A table that doesn't answer: who waits for it, and who doesn't.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, UInt32Array, new_null_array};
use arrow::datatypes::{DataType, Field, Schema};
use async_trait::async_trait;
use headwater_engine::engine::{Engine, EngineOptions};
use headwater_engine::error::Result;
use headwater_engine::lookup::{Found, Table, Tables};
use headwater_engine::plan::{Lookup, Operator, Output, Pipeline, TimeSource, ViewKey};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::*;

const PARTITIONS: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(30);

/// Has no rows, and says so when it is open.
#[derive(Clone, Debug)]
struct Gate {
    open: watch::Receiver<bool>,
    asked: Arc<AtomicUsize>,
}

impl Tables for Gate {
    fn open(&self, _: &str) -> Option<Arc<dyn Table>> {
        Some(Arc::new(self.clone()))
    }
}

#[async_trait]
impl Table for Gate {
    async fn rows(&self, keys: &[ArrayRef]) -> Result<Found> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.open.clone().wait_for(|open| *open).await.unwrap();
        Ok(Found {
            rows: vec![Arc::new(Int64Array::from(Vec::<i64>::new()))],
            places: new_null_array(&DataType::UInt32, keys[0].len())
                .as_any()
                .downcast_ref::<UInt32Array>()
                .unwrap()
                .clone(),
            unusable: Vec::new(),
        })
    }
}

fn every_row() -> Pipeline {
    let from_events = input("events", PARTITIONS, schema(), TimeSource::None);
    pipeline(vec![stage(
        from_events,
        Vec::new(),
        to_view(&schema(), ViewKey::Position),
    )])
}

fn looked_up() -> Pipeline {
    let mut fields: Vec<_> = schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("found", DataType::Int64, true)));
    let found = Arc::new(Schema::new(fields));
    let lookup = Operator::Lookup(Lookup {
        table: "gate-1".into(),
        keys: vec![4],
        columns: vec![0],
        keeps_unmatched: true,
        filter: None,
        schema: found.clone(),
    });
    let to_found = Output::View {
        table: "found".into(),
        topic: "found.changes".into(),
        key: ViewKey::Position,
        schema: found,
    };
    let from_events = input("events", PARTITIONS, schema(), TimeSource::None);
    Pipeline {
        name: "query-2".into(),
        ..pipeline(vec![stage(from_events, vec![lookup], to_found)])
    }
}

#[tokio::test]
async fn who_waits_for_a_table_loses_nothing_and_holds_up_nobody_else() {
    let mut world = World::new(every_row()).await;
    world.running.take().unwrap().stop().await;
    let (opener, open) = watch::channel(false);
    let gate = Gate {
        open,
        asked: Arc::default(),
    };
    // There is room for two epochs, and four tasks wait for the table.
    let options = EngineOptions {
        threads: 2,
        epoch_bytes_max: 2_000,
        epochs_bytes_max: 2 * 8 * 2_000,
        dead_letters: Some("dead_letters".into()),
        tables: Some(Arc::new(gate.clone())),
        ..EngineOptions::default()
    };
    world.engine = Engine::new(options, world.log.clone(), world.clock.clone()).unwrap();
    let waiting = world.engine.start(looked_up()).await.unwrap();
    let row = |value: i64| Row {
        time: Some(value),
        key: None,
        code: None,
        value: Some(value),
    };
    for partition in 0..PARTITIONS {
        let rows: Vec<Row> = (0..20).map(row).collect();
        world.append(partition, &rows).await;
    }
    while gate.asked.load(Ordering::Relaxed) < 2 {
        tokio::task::yield_now().await;
    }
    world.start().await;
    world.caught_up().await;
    assert_eq!(world.view().await.len(), 20 * PARTITIONS as usize);
    let found = async || world.topic("found.changes", PARTITIONS).await;
    assert!(found().await.is_empty());

    timeout(PATIENCE, waiting.stop())
        .await
        .expect("it waits, and does not stop");
    opener.send(true).unwrap();
    let again = world.engine.start(looked_up()).await.unwrap();
    timeout(PATIENCE, again.caught_up()).await.expect("it goes on");
    let rows: usize = found().await.iter().map(|batch| batch.num_rows()).sum();
    assert_eq!(rows, 20 * PARTITIONS as usize);
}
