//! The decoder of bodies with an object on each line.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| headwater_fuzz::ndjson(input));
