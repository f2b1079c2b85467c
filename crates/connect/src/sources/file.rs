//! `connector = 'file'`: events from a file, or from the files of a folder, oldest name first. It is
//! followed: what is added to a file comes too, and so do files that are added to the folder.
//! `follow = false` reads what is there and ends.
//!
//! A file is known by its name, and only ever added to. One that has become shorter than what was
//! read of it is not read on; it says so until somebody looks. A line without an end is not read before
//! it has one, or, without `follow`, as the last.
//!
//! A Parquet file is read once, when it is whole, and not at all if it has changed since its reading began.
//!
//! Position: for each file, under its name within the folder, how much was read: bytes, or for Parquet rows, with all the
//! rows and bytes that the file has (`rows/of/bytes`).

mod folder;
mod parquet;
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
use crate::sources::file::parquet::Table;
use crate::sources::file::records::{Records, read};
use crate::within::Within;

/// What files hold, by what `ENCODE` or the option `format` says, and by the ends of their names.
const FORMATS: [(&str, Content, &[&str]); 4] = [
    ("json", Content::Records(Format::NdJson), &["ndjson", "jsonl", "json"]),
    ("csv", Content::Records(Format::Csv), &["csv"]),
    ("combined_log", Content::Records(Format::CombinedLog), &["log"]),
    ("parquet", Content::Parquet, &["parquet"]),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// One after the other, so that more can follow.
    Records(Format),
    Parquet,
}

/// How much of a file was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Bytes(u64),
    Rows { read: u64, of: u64, bytes: u64 },
}

struct File {
    path: PathBuf,
    /// Of all files; by their names unless given.
    content: Option<Content>,
    follow: bool,
    schema: EventSchema,
    /// How far each file was read, by its name.
    read: BTreeMap<String, Progress>,
    /// Files that may have more than was read, the next one last.
    pending: Vec<Found>,
    /// The Parquet file that is being read.
    table: Option<Table>,
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
        content: content(source, options)?,
        follow: options.flag("follow")?.unwrap_or(true),
        schema: stream.schema.clone(),
        read: BTreeMap::new(),
        pending: Vec::new(),
        table: None,
    };
    Ok(Opened {
        source: Box::new(source),
        rate,
    })
}

/// What all files hold, if it is said.
fn content(source: &Definition, options: &mut Options<'_>) -> Result<Option<Content>, Refusal> {
    const OPTION: &str = "format";
    let (name, about) = match (source.encode.as_deref(), options.text(OPTION)) {
        (None, None) => return Ok(None),
        (Some(name), None) => (name, About::Format),
        (None, Some(name)) => (name, About::Option(OPTION.to_owned())),
        (Some(_), Some(_)) => {
            let message = "the format is said twice: by the option format, and by FORMAT PLAIN ENCODE";
            return Err(Refusal::new(About::Option(OPTION.to_owned()), message));
        }
    };
    let names = FORMATS.map(|(known, ..)| known);
    let found = FORMATS
        .iter()
        .find(|(known, _, ends)| *known == name || ends.contains(&name));
    match found {
        Some((_, content, _)) => Ok(Some(*content)),
        None => Err(Refusal::new(about, format!("there is no format {name} for files"))
            .near(nearest(name, names.into_iter()))
            .hint(format!("there are {}", names.join(", ")))),
    }
}

/// What a file holds, by the end of its name.
fn content_of(name: &str) -> Option<Content> {
    let (_, end) = name.rsplit_once('.')?;
    let known = |(_, _, ends): &&(&str, Content, &[&str])| ends.contains(&end.to_lowercase().as_str());
    FORMATS.iter().find(known).map(|(_, content, _)| *content)
}

impl Progress {
    /// Whether the file has more than this; an error if it is no longer the one that was read.
    fn leaves(self, file: &Found) -> Result<bool, Error> {
        let (name, there) = (&file.name, file.bytes);
        match self {
            Self::Bytes(read) if there < read => Err(Error::outside(format!(
                "{name} has become shorter: {read} bytes were read of it, and it has {there}. Put it back, or make the source anew"
            ))),
            Self::Bytes(read) => Ok(there > read),
            Self::Rows { bytes, .. } if there != bytes => Err(Error::outside(format!(
                "{name} has changed since it was read: it had {bytes} bytes, and has {there}. Put it back, and give what is new another name"
            ))),
            Self::Rows { read, of, .. } => Ok(read < of),
        }
    }

    fn entry(self, name: &str) -> (Bytes, Option<Bytes>) {
        let text = match self {
            Self::Bytes(read) => read.to_string(),
            Self::Rows { read, of, bytes } => format!("{read}/{of}/{bytes}"),
        };
        (Bytes::from(name.to_owned()), Some(Bytes::from(text)))
    }
}

impl FromStr for Progress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let numbers: Result<Vec<u64>, _> = text.split('/').map(u64::from_str).collect();
        match numbers.as_deref() {
            Ok([bytes]) => Ok(Self::Bytes(*bytes)),
            Ok([read, of, bytes]) => Ok(Self::Rows {
                read: *read,
                of: *of,
                bytes: *bytes,
            }),
            _ => Err(Error::outside(format!("its position can't be read: {text}"))),
        }
    }
}

impl File {
    fn content(&self, name: &str) -> Option<Content> {
        self.content.or_else(|| content_of(name))
    }

    /// Looks for files that have more than was read of them.
    fn look_around(&self) -> Result<Vec<Found>, Error> {
        let mut found = find(&self.path)?;
        let mut pending = Vec::new();
        found.retain(|file| self.content(&file.name).is_some());
        for file in found {
            let read = self.read.get(&file.name).copied();
            if read.unwrap_or(Progress::Bytes(0)).leaves(&file)? {
                pending.push(file);
            }
        }
        pending.sort_by(|one, other| other.name.cmp(&one.name));
        Ok(pending)
    }

    /// The next records of a file; none if there are no whole ones.
    fn records(&mut self, file: &Found, format: Format, ask: &Ask<'_>) -> Result<Option<Batch>, Error> {
        let from = match self.read.get(&file.name) {
            None => 0,
            Some(Progress::Bytes(read)) => *read,
            Some(Progress::Rows { .. }) => return Err(read_otherwise(file)),
        };
        let Some(records) = read(file, format, from, ask.events_max, !self.follow)? else {
            return Ok(None);
        };
        let batch = self.decode(file, format, &records, ask)?;
        self.read.insert(file.name.clone(), Progress::Bytes(records.end));
        Ok(Some(batch))
    }

    /// The next rows of a Parquet file; none at its end.
    fn rows(&mut self, file: &Found, ask: &Ask<'_>) -> Result<Option<Batch>, Error> {
        let from = match self.read.get(&file.name) {
            None => 0,
            Some(Progress::Rows { read, .. }) => *read,
            Some(Progress::Bytes(_)) => return Err(read_otherwise(file)),
        };
        let mut table = match self.table.take().filter(|table| table.name == file.name) {
            Some(table) => table,
            None => Table::open(file, &self.schema, from)?,
        };
        let piece = table.next(ask.events_max)?;
        let progress = Progress::Rows {
            read: piece.as_ref().map_or(table.rows, |piece| piece.next),
            of: table.rows,
            bytes: file.bytes,
        };
        self.read.insert(file.name.clone(), progress);
        let Some(piece) = piece else {
            return Ok(None);
        };
        self.table = Some(table);
        Ok(Some(Batch {
            rows: piece.rows,
            events: piece.count,
            rejected: piece.rejected,
            position: vec![progress.entry(&file.name)],
        }))
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
            position: vec![Progress::Bytes(records.end).entry(&file.name)],
        })
    }
}

fn read_otherwise(file: &Found) -> Error {
    Error::outside(format!("{} was read in another format before", file.name))
}

#[async_trait]
impl Source for File {
    fn look(&self, within: &Within) -> Result<(), Error> {
        within.check(&self.path)?;
        let files = find(&self.path)?;
        let name = self.path.display();
        let is_folder = self.path.is_dir();
        match files.iter().find(|file| self.content(&file.name).is_none()) {
            Some(_) if !is_folder => Err(Error::outside(format!(
                "what {name} holds can't be told from its name; say format = 'json', 'csv', 'combined_log' or 'parquet'"
            ))),
            _ => Ok(()),
        }
    }

    fn resume(&mut self, position: Position) -> Result<(), Error> {
        for (name, bytes) in position {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            self.read.insert(text(&name), text(&bytes).parse()?);
        }
        Ok(())
    }

    async fn next(&mut self, ask: &Ask<'_>) -> Result<Next, Error> {
        if self.pending.is_empty() {
            ask.within.check(&self.path)?;
            self.pending = self.look_around()?;
        }
        while let Some(file) = self.pending.last().cloned() {
            ask.within.check(&file.path)?;
            let batch = match self.content(&file.name) {
                Some(Content::Records(format)) => self.records(&file, format, ask)?,
                Some(Content::Parquet) => self.rows(&file, ask)?,
                // It was one when the folder was looked through.
                None => None,
            };
            match batch {
                Some(batch) => return Ok(Next::Batch(batch)),
                None => self.pending.pop(),
            };
        }
        match self.follow {
            true => Ok(Next::Later),
            false => Ok(Next::End),
        }
    }
}
