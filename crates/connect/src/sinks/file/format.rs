//! What is in a file, and how pieces of it are written.

use std::io::{self, Write};

use arrow::array::{RecordBatch, new_null_array};
use arrow::datatypes::{Schema, SchemaRef};
use headwater_schema::encode;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::source::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    NdJson,
    Csv,
    Parquet,
}

/// Turns rows into the bytes of a file.
pub(super) enum Writer<W: Write + Send> {
    Lines { out: W, format: Format, begun: bool },
    Parquet(Box<ArrowWriter<W>>),
}

impl Format {
    pub(super) const NAMES: [(&'static str, Self); 3] =
        [("ndjson", Self::NdJson), ("csv", Self::Csv), ("parquet", Self::Parquet)];

    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::NdJson => "ndjson",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }
}

/// Says what of the columns can't be in such a file.
pub(super) fn check(format: Format, schema: &SchemaRef) -> Result<(), String> {
    if format != Format::Parquet {
        return Ok(());
    }
    // Whether a type can be written is found out by writing it.
    for field in schema.fields() {
        let alone = Schema::new(vec![field.as_ref().clone().with_nullable(true)]);
        let nothing = new_null_array(field.data_type(), 1);
        let written = RecordBatch::try_new(alone.into(), vec![nothing])
            .map_err(Into::into)
            .and_then(|rows| {
                let mut writer = ArrowWriter::try_new(io::sink(), rows.schema(), None)?;
                writer.write(&rows)
            });
        if let Err(error) = written {
            return Err(format!("Parquet can't hold the column {}: {error}", field.name()));
        }
    }
    Ok(())
}

impl<W: Write + Send> Writer<W> {
    pub(super) fn new(format: Format, schema: &SchemaRef, out: W) -> Result<Self, Error> {
        if format != Format::Parquet {
            let begun = false;
            return Ok(Self::Lines { out, format, begun });
        }
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default()));
        let writer = ArrowWriter::try_new(out, schema.clone(), Some(properties.build())).map_err(parquet)?;
        Ok(Self::Parquet(Box::new(writer)))
    }

    /// Adds rows. They are on their way to the file when it returns: nothing waits in memory.
    pub(super) fn add(&mut self, rows: &[RecordBatch]) -> Result<(), Error> {
        match self {
            Self::Lines { out, format, begun } => {
                let mut bytes = Vec::new();
                for rows in rows {
                    let written = match format {
                        Format::Csv => encode::csv(rows, !*begun, &mut bytes),
                        _ => encode::json_lines(rows, &mut bytes),
                    };
                    written.map_err(|error| Error::Rows(error.to_string()))?;
                    *begun = true;
                }
                out.write_all(&bytes).map_err(|error| Error::outside(error.to_string()))
            }
            Self::Parquet(writer) => {
                for rows in rows {
                    writer.write(rows).map_err(parquet)?;
                }
                writer.flush().map_err(parquet)
            }
        }
    }

    /// Writes what belongs at the end.
    pub(super) fn finish(self) -> Result<(), Error> {
        match self {
            Self::Lines { .. } => Ok(()),
            Self::Parquet(writer) => writer.close().map(drop).map_err(parquet),
        }
    }
}

fn parquet(error: parquet::errors::ParquetError) -> Error {
    Error::outside(error.to_string())
}
