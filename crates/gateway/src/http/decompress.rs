//! Compressed bodies: gzip (of any number of members) and zstd (of any number of frames).
//!
//! What comes out is bounded while it comes out, in size and in memory for the window, so that a
//! small body can't unpack to something that is not.

use std::io::{self, Read};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use headwater_problem::{Problem, ProblemKind};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

use crate::ingest::budget::Reservation;

/// Unpacked in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;

/// A frame that needs a larger window than 2^23 bytes is refused; RFC 9659 asks no more of receivers.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Encoding {
    Gzip,
    Zstd,
}

/// How the body is compressed, by its Content-Encoding.
pub(super) fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>, Problem> {
    let Some(value) = headers.get(CONTENT_ENCODING) else {
        return Ok(None);
    };
    let name = value.to_str().unwrap_or("(not text)").trim();
    match name.to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(None),
        "gzip" | "x-gzip" => Ok(Some(Encoding::Gzip)),
        "zstd" => Ok(Some(Encoding::Zstd)),
        _ => Err(Problem::new(
            ProblemKind::UnknownContentType,
            format!("the Content-Encoding '{name}' is not known"),
        )
        .hint("compress with gzip or zstd, once, or not at all")),
    }
}

/// The body unpacked, and the room that it takes.
pub(super) fn decompress(
    encoding: Encoding,
    packed: &[u8],
    reservation: Reservation,
    bytes_max: usize,
) -> Result<(Bytes, Reservation), Problem> {
    match encoding {
        Encoding::Gzip => unpack(MultiGzDecoder::new(packed), packed.len(), reservation, bytes_max),
        Encoding::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(packed).map_err(|error| invalid(&error))?;
            decoder
                .window_log_max(ZSTD_WINDOW_LOG_MAX)
                .map_err(|error| invalid(&error))?;
            unpack(decoder, packed.len(), reservation, bytes_max)
        }
    }
}

fn unpack(
    mut decoder: impl Read,
    packed_bytes: usize,
    mut reservation: Reservation,
    bytes_max: usize,
) -> Result<(Bytes, Reservation), Problem> {
    let mut unpacked = Vec::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let bytes = decoder.read(&mut piece).map_err(|error| invalid(&error))?;
        if bytes == 0 {
            break;
        }
        if unpacked.len() + bytes > bytes_max {
            return Err(bomb(packed_bytes, bytes_max));
        }
        reservation.grow(bytes)?;
        unpacked.extend_from_slice(&piece[..bytes]);
    }
    reservation.shrink(packed_bytes);
    Ok((unpacked.into(), reservation))
}

fn invalid(error: &io::Error) -> Problem {
    Problem::new(
        ProblemKind::InvalidBody,
        format!("the body can't be decompressed: {error}"),
    )
    .hint("check that the body is compressed as its Content-Encoding says")
}

fn bomb(packed_bytes: usize, bytes_max: usize) -> Problem {
    Problem::new(
        ProblemKind::DecompressionBomb,
        format!("the {packed_bytes} bytes of the body unpack to more than the {bytes_max} that a request may have"),
    )
    .hint("send the events in several requests")
}
