//! The parser of statements, and the definitions that they make.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| headwater_fuzz::sql(input));
