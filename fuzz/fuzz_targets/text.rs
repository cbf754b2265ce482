//! Small texts with rules of their own: timestamps and certificates.

#![no_main]

use inflection_control::Certificate;
use inflection_domain::Timestamp;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(at) = Timestamp::parse(text) {
        let written = at.to_string();
        assert_eq!(Timestamp::parse(&written).expect("a time of our own can be read"), at, "{text} is {written}");
    }
    drop(Certificate::from_pem(text));
});
