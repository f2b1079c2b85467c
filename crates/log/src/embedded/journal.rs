//! Checks the store's journals before the store opens them.
//!
//! The store takes whatever it can't read in a journal for the torn end of it, and cuts it off:
//! one damaged byte would cost every acknowledged write behind it, without a word. So the journals
//! are read here first. What is torn is cut off, what is damaged is an error that names the file.
//!
//! A journal is a sequence of batches: a start, items, and an end with the checksum of the items.
//! One batch is synced before the next is written, so at most the last one can be torn. From the
//! first batch that can't be read to the last byte that isn't zero (files are made longer than
//! they need to be) it is *damage* if
//!
//! 1. another batch begins in it, or the journal isn't the newest; or
//! 2. it ends as a batch ends and has no sector of zeros in it: all of it had been written.
//!
//! Else it is torn: a power cut leaves sectors unwritten, or the batch without its end.
//!
//! After a crash two things can't be told apart: damage to the very last batch that makes a whole
//! sector zero, or its end unreadable, looks like a torn write, and so does a journal cut short. A log that was closed
//! leaves a note of how long its journals were ([`note_lengths`]), and then nothing is taken for torn.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};

const TAG_START: u8 = 1;
const TAG_ITEM: u8 = 2;
const TAG_END: u8 = 3;
const TAG_CLEAR: u8 = 4;

/// Ends every batch.
const TRAILER: &[u8] = b"FJL\x03";

/// The end of a batch and the start of the next.
const BOUNDARY: &[u8] = b"FJL\x03\x01";

const SECTOR_BYTES: usize = 512;

const READ_BYTES: usize = 1 << 20;

/// What is behind the last batch that could be read.
#[derive(Debug, PartialEq, Eq)]
enum Rest {
    Nothing,
    Torn,
    Damaged,
}

/// Checks all journals of the store in `folder`, oldest first, and cuts off the torn end of the newest.
/// `note` is where [`note_lengths`] left its note, if the log was closed; it is removed.
pub(super) fn check(folder: &Path, note: &Path) -> Result<()> {
    let noted = read_note(note)?;
    let journals = journals(folder).map_err(|source| io(folder, source))?;
    let newest = journals.len().saturating_sub(1);
    for (index, path) in journals.iter().enumerate() {
        let (good_bytes, rest) = inspect(path).map_err(|source| io(path, source))?;
        let noted_bytes = noted.as_ref().and_then(|noted| noted.get(&*name_of(path)));
        let is_short = noted_bytes.is_some_and(|&bytes| good_bytes < bytes);
        match rest {
            Rest::Nothing if !is_short => {}
            Rest::Torn if index == newest && !is_short => {
                tracing::info!(file = %path.display(), good_bytes, "cut off a write that was never finished");
                cut(path, good_bytes).map_err(|source| io(path, source))?;
            }
            _ => {
                return Err(Error::DamagedFile {
                    file: path.clone(),
                    what: format!("the batch at byte {good_bytes} of the journal can't be read"),
                });
            }
        }
    }
    if noted.is_none() {
        return Ok(());
    }
    // From the first write on it would be wrong.
    let remove = || {
        std::fs::remove_file(note)?;
        note.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    };
    remove().map_err(|source| io(note, source))
}

/// Notes how long the journals in `folder` are, once nobody writes to them any more. The store may still remove some
/// whose content is in its tables.
pub(super) fn note_lengths(folder: &Path, note: &Path) -> std::io::Result<()> {
    let mut text = String::new();
    for path in journals(folder)? {
        let (good_bytes, _) = inspect(&path)?;
        // Writing to a string does not fail.
        let _ = writeln!(text, "{} {good_bytes}", name_of(&path));
    }
    let written = note.with_extension("new");
    std::fs::write(&written, text)?;
    std::fs::rename(&written, note)
}

/// The lengths by file name; `None` where the log was not closed.
fn read_note(note: &Path) -> Result<Option<BTreeMap<String, u64>>> {
    let text = match std::fs::read_to_string(note) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io(note, source)),
    };
    let lines = text.lines().map(|line| {
        let (name, bytes) = line.split_once(' ')?;
        Some((name.to_owned(), bytes.parse().ok()?))
    });
    let noted: Option<_> = lines.collect();
    noted.map(Some).ok_or_else(|| Error::DamagedFile {
        file: note.to_owned(),
        what: "it doesn't hold the lengths of the journals".to_owned(),
    })
}

fn name_of(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

fn journals(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut numbered: Vec<(u64, PathBuf)> = Vec::new();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse::<u64>().ok());
        numbered.extend(number.map(|number| (number, path)));
    }
    numbered.sort();
    Ok(numbered.into_iter().map(|(_, path)| path).collect())
}

fn inspect(path: &Path) -> std::io::Result<(u64, Rest)> {
    let mut reader = BufReader::with_capacity(READ_BYTES, File::open(path)?);
    let mut good_bytes = 0;
    loop {
        match read_batch(&mut reader) {
            Ok(Some(bytes)) => good_bytes += bytes,
            Ok(None) => break,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    let mut file = reader.into_inner();
    file.seek(SeekFrom::Start(good_bytes))?;
    let mut rest = Vec::new();
    file.read_to_end(&mut rest)?;
    Ok((good_bytes, judge(&rest, good_bytes)))
}

/// Judges what begins at byte `at` of a journal and is no whole batch.
fn judge(rest: &[u8], at: u64) -> Rest {
    let Some(last) = rest.iter().rposition(|&byte| byte != 0) else {
        return Rest::Nothing;
    };
    let written = &rest[..=last];
    if written.windows(BOUNDARY.len() + 13).any(is_boundary) {
        return Rest::Damaged;
    }
    let to_sector = (SECTOR_BYTES - (at % SECTOR_BYTES as u64) as usize) % SECTOR_BYTES;
    let mut sectors = written.get(to_sector..).unwrap_or_default().chunks_exact(SECTOR_BYTES);
    let unwritten = sectors.any(|sector| sector.iter().all(|&byte| byte == 0));
    if written.ends_with(TRAILER) && !unwritten {
        Rest::Damaged
    } else {
        Rest::Torn
    }
}

/// Whether a batch begins behind the end of another: its first item has to follow.
fn is_boundary(window: &[u8]) -> bool {
    window.starts_with(BOUNDARY) && matches!(window.last(), Some(&TAG_ITEM | &TAG_CLEAR))
}

/// The length of the batch that begins here, or `None` where there is no whole batch.
fn read_batch(reader: &mut impl BufRead) -> std::io::Result<Option<u64>> {
    let mut start = [0; 13];
    reader.read_exact(&mut start)?;
    if start[0] != TAG_START {
        return Ok(None);
    }
    let mut bytes = start.len() as u64;
    let mut checksum = Xxh3::new();
    for _ in 0..little_endian(&start[1..5]) {
        match read_item(reader, &mut checksum)? {
            Some(item_bytes) => bytes += item_bytes,
            None => return Ok(None),
        }
    }
    let mut end = [0; 13];
    reader.read_exact(&mut end)?;
    let whole = end[0] == TAG_END && &end[9..] == TRAILER && little_endian(&end[1..9]) == checksum.digest();
    Ok(whole.then_some(bytes + end.len() as u64))
}

fn read_item(reader: &mut impl BufRead, checksum: &mut Xxh3) -> std::io::Result<Option<u64>> {
    let mut head = [0; 21];
    reader.read_exact(&mut head[..9])?;
    if head[0] == TAG_CLEAR {
        checksum.update(&head[..9]);
        return Ok(Some(9));
    }
    if head[0] != TAG_ITEM {
        return Ok(None);
    }
    // Tag, type, compression, keyspace u64, length of the key u16, of the value u32, and as it is stored u32.
    reader.read_exact(&mut head[9..])?;
    checksum.update(&head);
    let stored_bytes = little_endian(&head[11..13]) + little_endian(&head[17..21]);
    let mut left = usize::try_from(stored_bytes).unwrap_or(usize::MAX);
    while left > 0 {
        let read = reader.fill_buf()?;
        if read.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let taken = read.len().min(left);
        checksum.update(&read[..taken]);
        reader.consume(taken);
        left -= taken;
    }
    Ok(Some(head.len() as u64 + stored_bytes))
}

fn cut(path: &Path, bytes: u64) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(bytes)?;
    file.sync_all()
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        path: path.to_owned(),
        source,
    }
}
