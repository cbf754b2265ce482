//! POST /v1/batch and the single calls of Segment's SDKs.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    inflection_ingest::fuzzing::calls(bytes);
});
