//! `connector = 'nexmark'`: the benchmark's persons, auctions and bids, each table a source of its
//! own. Sources with the same `seed`, `rate`, `start` and `events` belong together: they are parts of
//! one sequence of events, 1 person to 3 auctions to 46 bids.
//!
//! `rate` and `events` count that sequence, and event time goes as fast as the events come. Position:
//! the number of the next event.

pub mod generator;
mod text;

use async_trait::async_trait;
use headwater_catalog::definition::{Source as Definition, Stream};

use crate::options::{Options, Refusal};
use crate::source::{Ask, Batch, Count, Error, Next, Opened, Position, Source};
use crate::sources::check_fields;
use crate::sources::nexmark::generator::{Generator, RATE, START, Table};

/// A batch has about so many rows at most.
const ROWS_MAX: u64 = 8192;

struct Nexmark {
    generator: Generator,
    columns: Vec<usize>,
    next: u64,
    end: u64,
}

pub(super) fn open(source: &Definition, stream: &Stream, options: &mut Options<'_>) -> Result<Opened, Refusal> {
    let tables = [Table::Bid, Table::Auction, Table::Person].map(|table| (table.name(), table));
    let by_name = tables.iter().find(|(name, _)| *name == source.stream);
    let table = options.one_of("table", &tables)?.or(by_name.map(|(_, table)| *table));
    let Some(table) = table else {
        return Err(Refusal::option("table", "missing: 'bid', 'auction' or 'person'")
            .hint("it can be left out where the stream is called so"));
    };
    let (rate, events) = (options.rate()?, options.events()?);
    let generator = Generator {
        table,
        seed: options.seed()?,
        start: options.time("start")?.unwrap_or(START),
        rate: rate.unwrap_or(RATE),
    };
    let schema = table.schema();
    check_fields(stream, "nexmark", &schema)?;
    let columns = stream.schema.columns.iter();
    let source = Nexmark {
        generator,
        columns: columns
            .filter_map(|column| schema.index_of(&column.name).ok())
            .collect(),
        next: 0,
        end: events.unwrap_or(u64::MAX),
    };
    Ok(Opened {
        source: Box::new(source),
        // What has an end needs no brake.
        rate: rate.or(events.is_none().then_some(RATE)),
    })
}

#[async_trait]
impl Source for Nexmark {
    fn resume(&mut self, position: Position) -> Result<(), Error> {
        self.next = Count::resume(&position)?.0;
        Ok(())
    }

    async fn next(&mut self, ask: &Ask<'_>) -> Result<Next, Error> {
        if self.next >= self.end {
            return Ok(Next::End);
        }
        let most = ask.events_max.min(self.generator.table.events_of(ROWS_MAX));
        let events = self.next..self.next.saturating_add(most).min(self.end);
        let rows = self.generator.batch(events.clone());
        let rows = rows.and_then(|rows| rows.project(&self.columns));
        let rows = rows.map_err(|error| Error::Rows(error.to_string()))?;
        self.next = events.end;
        Ok(Next::Batch(Batch {
            rows,
            events: events.end - events.start,
            rejected: Vec::new(),
            position: Count(self.next).change(),
        }))
    }
}
