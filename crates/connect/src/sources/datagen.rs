//! `connector = 'datagen'`: made-up events, each column by a rule of its own ([`column`]), the same
//! for the same seed. Position: the number of the next event.

mod column;
mod values;

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use headwater_catalog::definition::{Source as Definition, Stream};

use crate::options::{Options, Refusal};
use crate::source::{Ask, Batch, Count, Error, Next, Opened, Position, Source};
use crate::sources::datagen::column::Rule;

/// Events a second, where there is no end and nothing else is said.
const RATE: std::num::NonZeroU32 = std::num::NonZeroU32::new(1000).unwrap();

const ROWS_MAX: u64 = 8192;

struct Datagen {
    seed: u64,
    /// The columns that are made; the stream's other ones get their defaults.
    schema: SchemaRef,
    rules: Vec<Rule>,
    next: u64,
    end: u64,
}

pub(super) fn open(_: &Definition, stream: &Stream, options: &mut Options<'_>) -> Result<Opened, Refusal> {
    let (rate, events, seed) = (options.rate()?, options.events()?, options.seed()?);
    let (mut fields, mut rules) = (Vec::new(), Vec::new());
    for column in &stream.schema.columns {
        if let Some(rule) = column::rule(column, rate.unwrap_or(RATE), options)? {
            fields.push(column.field());
            rules.push(rule);
        }
    }
    let source = Datagen {
        seed,
        schema: Arc::new(Schema::new(fields)),
        rules,
        next: 0,
        end: events.unwrap_or(u64::MAX),
    };
    Ok(Opened {
        source: Box::new(source),
        rate: rate.or(events.is_none().then_some(RATE)),
    })
}

#[async_trait]
impl Source for Datagen {
    fn resume(&mut self, position: Position) -> Result<(), Error> {
        self.next = Count::resume(&position)?.0;
        Ok(())
    }

    async fn next(&mut self, ask: &Ask<'_>) -> Result<Next, Error> {
        if self.next >= self.end {
            return Ok(Next::End);
        }
        let most = ask.events_max.min(ROWS_MAX);
        let events = self.next..self.next.saturating_add(most).min(self.end);
        let rules = self.rules.iter().zip(self.schema.fields()).enumerate();
        let columns = rules.map(|(place, (rule, field))| {
            let seed = self.seed.wrapping_add((place as u64) << 32);
            rule.column(seed, events.clone(), field.data_type())
        });
        let columns = columns.collect::<Result<Vec<_>, _>>();
        let count = events.end - events.start;
        let options = RecordBatchOptions::new().with_row_count(Some(count as usize));
        let rows = columns.and_then(|columns| {
            let schema = Arc::clone(&self.schema);
            RecordBatch::try_new_with_options(schema, columns, &options)
        });
        let rows = rows.map_err(|error| Error::Rows(error.to_string()))?;
        self.next = events.end;
        Ok(Next::Batch(Batch {
            rows,
            events: count,
            rejected: Vec::new(),
            position: Count(self.next).change(),
        }))
    }
}
