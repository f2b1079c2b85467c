//! The decoder of JSON bodies: one object, or an array of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| headwater_fuzz::json(input));
