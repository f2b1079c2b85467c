//! Reading topics of events: records that follow each other are one batch.

use std::collections::VecDeque;

use headwater_event::offset::Offset;

use crate::error::Result;
use crate::kafka::events::{EventRecords, RUN_BYTES_MAX, RUN_RECORDS_MAX};
use crate::kafka::readers::{Ahead, Lease, Place, Reader, Record};
use crate::{LoggedBatch, RefusedRecord};

impl Lease<'_> {
    /// What stands among the records that were fetched already and is no event; the answer is where to look on.
    pub fn refused(&mut self, place: Place<'_>, refused: &mut Vec<RefusedRecord>) -> Offset {
        let reader = self.reader();
        let taken = reader.ahead.take(RUN_RECORDS_MAX, RUN_BYTES_MAX);
        for record in taken {
            let events = place.topic.events.as_ref();
            if let Some(why) = events.and_then(|events| events.refused(place.partition.partition, &record)) {
                refused.push(RefusedRecord {
                    offset: place.topic.base_of(record.record),
                    what: why.what,
                    bytes: record.value.unwrap_or_default(),
                });
            }
            reader.position = place.topic.base_of(record.record + 1);
        }
        reader.position
    }
}

impl Reader {
    /// The events that come next, as far as they follow each other. Records that are none are passed over; the position stays before them, so
    /// that whoever asks for what comes there finds this reader again.
    pub(super) fn next_events(
        &mut self,
        events: &EventRecords,
        place: Place<'_>,
        columns: Option<&[usize]>,
    ) -> Result<Option<LoggedBatch>> {
        loop {
            let mut taken = self.ahead.take(RUN_RECORDS_MAX, RUN_BYTES_MAX);
            if taken.is_empty() {
                return Ok(None);
            }
            let batch = events.decode(place.partition, &mut taken, columns);
            self.ahead.put_back(taken);
            if let Some(batch) = batch? {
                self.position = batch.next();
                return Ok(Some(batch));
            }
        }
    }

    /// Whether there is an event that was fetched already, or what only an error can say.
    pub(super) fn is_event_ahead(&self, events: &EventRecords, place: Place<'_>) -> bool {
        loop {
            let fetched = self.ahead.fetched.lock();
            let Some(record) = fetched.records.front() else {
                return false;
            };
            if !events.is_bound() || events.refused(place.partition.partition, record).is_none() {
                return true;
            }
            drop(fetched);
            self.ahead.pop();
        }
    }
}

impl Ahead {
    /// The first records, up to a bound.
    fn take(&self, records_max: usize, bytes_max: usize) -> VecDeque<Record> {
        let mut fetched = self.fetched.lock();
        let (mut count, mut bytes) = (0, 0);
        while count < records_max.min(fetched.records.len()) && bytes < bytes_max {
            bytes += fetched.records[count].bytes();
            count += 1;
        }
        let rest = fetched.records.split_off(count);
        fetched.bytes -= bytes;
        self.room.notify_all();
        std::mem::replace(&mut fetched.records, rest)
    }

    /// Puts back what was taken too much.
    fn put_back(&self, mut records: VecDeque<Record>) {
        let mut fetched = self.fetched.lock();
        fetched.bytes += records.iter().map(Record::bytes).sum::<usize>();
        records.append(&mut fetched.records);
        fetched.records = records;
    }
}
