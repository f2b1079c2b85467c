//! `connector = 'file'`: events from a file, or from the files of a folder, oldest name first. It is
//! followed: what is added to a file comes too, and so do files that are added to the folder.
//! `follow = false` reads what is there and ends.
//!
//! A file is known by its name, and only ever added to. One that has become shorter than what was
//! read of it is not read on; it says so until somebody looks. A line without an end is not read before
//! it has one, or, without `follow`, as the last.
//!
//! Position: for each file, under its name within the folder, the bytes that were read.

mod folder;
mod records;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use async_trait::async_trait;
use bytes::Bytes;
use headwater_catalog::definition::{Source as Definition, Stream};
use headwater_catalog::snapshot::nearest;
use headwater_schema::column::EventSchema;
use headwater_schema::decode::{Decoder, Format, OnError};

use crate::options::{About, Options, Refusal};
use crate::source::{Ask, Batch, Error, Next, Opened, Position, Rejected, Source};
use crate::sources::file::folder::{Found, find};
use crate::sources::file::records::{Records, read};

/// Formats by what `ENCODE` says, and by the ends of files' names.
const FORMATS: [(&str, Format, &[&str]); 3] = [
    ("json", Format::NdJson, &["ndjson", "jsonl", "json"]),
    ("csv", Format::Csv, &["csv"]),
    ("combined_log", Format::CombinedLog, &["log"]),
];

struct File {
    path: PathBuf,
    /// Of all files; by their names unless given.
    format: Option<Format>,
    follow: bool,
    schema: EventSchema,
    /// How far each file was read, by its name.
    read: BTreeMap<String, u64>,
    /// Files that may have more than was read, the next one last.
    pending: Vec<Found>,
}

pub(super) fn open(source: &Definition, stream: &Stream, options: &mut Options<'_>) -> Result<Opened, Refusal> {
    let Some(path) = options.text("path") else {
        return Err(
            Refusal::new(About::Statement, "a source with the connector file needs a path")
                .hint("WITH (connector = 'file', path = '/data/events.ndjson'), or a folder"),
        );
    };
    let rate = options.rate()?;
    let source = File {
        path: PathBuf::from(path),
        format: source.encode.as_deref().map(format).transpose()?,
        follow: options.flag("follow")?.unwrap_or(true),
        schema: stream.schema.clone(),
        read: BTreeMap::new(),
        pending: Vec::new(),
    };
    Ok(Opened {
        source: Box::new(source),
        rate,
    })
}

fn format(name: &str) -> Result<Format, Refusal> {
    let found = FORMATS.iter().find(|(known, ..)| *known == name);
    let names = FORMATS.map(|(known, ..)| known);
    found.map(|(_, format, _)| *format).ok_or_else(|| {
        let message = format!("there is no format {name} for files");
        Refusal::new(About::Format, message)
            .near(nearest(name, names.into_iter()))
            .hint(format!("there are {}", names.join(", ")))
    })
}

/// What a file holds, by the end of its name.
fn format_of(name: &str) -> Option<Format> {
    let (_, end) = name.rsplit_once('.')?;
    let known = |(_, _, ends): &&(&str, Format, &[&str])| ends.contains(&end.to_lowercase().as_str());
    FORMATS.iter().find(known).map(|(_, format, _)| *format)
}

impl File {
    fn format(&self, name: &str) -> Option<Format> {
        self.format.or_else(|| format_of(name))
    }

    /// Looks for files that have more than was read of them.
    fn look_around(&self) -> Result<Vec<Found>, Error> {
        let mut found = find(&self.path)?;
        found.retain(|file| self.format(&file.name).is_some());
        for file in &found {
            let read = self.read.get(&file.name).copied().unwrap_or(0);
            if file.bytes < read {
                let name = &file.name;
                let bytes = file.bytes;
                return Err(Error::outside(format!(
                    "{name} has become shorter: {read} bytes were read of it, and it has {bytes}. Put it back, or make the source anew"
                )));
            }
        }
        found.retain(|file| file.bytes > self.read.get(&file.name).copied().unwrap_or(0));
        found.sort_by(|one, other| other.name.cmp(&one.name));
        Ok(found)
    }

    /// Decodes records of a file. The rows, what could not be read, and how many records there were.
    fn decode(&self, file: &Found, format: Format, records: &Records, ask: &Ask<'_>) -> Result<Batch, Error> {
        let mut decoder = Decoder::new(&self.schema, std::sync::Arc::clone(ask.ids));
        let decoded = decoder.decode(&records.body, format, OnError::Collect, ask.now);
        if decoded.rejected {
            return Err(Error::outside(format!(
                "{} can't be read at byte {}",
                file.name, records.start
            )));
        }
        let rejected = decoded.failures.iter().map(|failure| {
            let within = failure.span.start.saturating_sub(records.header) as u64;
            Rejected {
                detail: format!("{}, byte {}: {}", file.name, records.start + within, failure.message),
                payload: records.body.get(failure.span.clone()).unwrap_or_default().to_vec(),
            }
        });
        Ok(Batch {
            rejected: rejected.collect(),
            rows: decoder.finish(),
            events: records.count,
            position: vec![(
                Bytes::from(file.name.clone()),
                Some(Bytes::from(records.end.to_string())),
            )],
        })
    }
}

#[async_trait]
impl Source for File {
    fn look(&self) -> Result<(), Error> {
        let files = find(&self.path)?;
        let name = self.path.display();
        let is_folder = self.path.is_dir();
        match files.iter().find(|file| self.format(&file.name).is_none()) {
            Some(_) if !is_folder => Err(Error::outside(format!(
                "what {name} holds can't be told from its name; say FORMAT PLAIN ENCODE JSON, CSV or COMBINED_LOG"
            ))),
            _ => Ok(()),
        }
    }

    fn resume(&mut self, position: Position) -> Result<(), Error> {
        for (name, bytes) in position {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let read = u64::from_str(&text(&bytes)).map_err(|_| Error::outside("its position can't be read"))?;
            self.read.insert(text(&name), read);
        }
        Ok(())
    }

    async fn next(&mut self, ask: &Ask<'_>) -> Result<Next, Error> {
        if self.pending.is_empty() {
            self.pending = self.look_around()?;
        }
        while let Some(file) = self.pending.last() {
            let from = self.read.get(&file.name).copied().unwrap_or(0);
            // It was one when the folder was looked through.
            let Some(format) = self.format(&file.name) else { break };
            let records = read(file, format, from, ask.events_max, !self.follow)?;
            let Some(records) = records else {
                self.pending.pop();
                continue;
            };
            let batch = self.decode(file, format, &records, ask)?;
            self.read.insert(file.name.clone(), records.end);
            return Ok(Next::Batch(batch));
        }
        match self.follow {
            true => Ok(Next::Later),
            false => Ok(Next::End),
        }
    }
}
