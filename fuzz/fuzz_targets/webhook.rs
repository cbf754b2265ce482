//! Webhooks: signatures, and what is signed.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    inflection_ingest::fuzzing::webhook(bytes);
});
