//! The decoder of CSV bodies.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| headwater_fuzz::csv(input));
