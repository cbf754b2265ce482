//! Packed bodies.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| inflection_ingest::fuzzing::gzip(bytes));
