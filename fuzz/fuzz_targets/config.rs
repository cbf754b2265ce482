//! Configuration files, but for those that may name a file.

#![no_main]

use inflection_control::{Config, Options};

libfuzzer_sys::fuzz_target!(|text: &str| {
    // A fuzzer must not be led to read devices that never end.
    if !text.contains("file") {
        drop(Config::parse(text, Options::default()));
    }
});
