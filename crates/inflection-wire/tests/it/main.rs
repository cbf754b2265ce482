//! The generated code in `src/gen` is what `proto/` says. With `INFLECTION_REGENERATE=1` it is written instead.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test helpers outside #[test] functions"
)]

mod skew;

use std::path::{Path, PathBuf};

/// Where `proto/` lies, and its files.
fn protos() -> (PathBuf, [PathBuf; 6]) {
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files = ["alias", "events", "decisions", "delivery", "ownership", "snapshot"];
    let files = files.map(|name| protos.join(format!("inflection/v1/{name}.proto")));
    (protos, files)
}

#[test]
fn generated_code_is_current() -> Result<(), Box<dyn std::error::Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (protos, files) = protos();
    let descriptors = protox::compile(files, [&protos])?;
    let out = std::env::temp_dir().join(format!("inflection-wire-{}", std::process::id()));
    std::fs::create_dir_all(&out)?;
    prost_build::Config::new().bytes(["."]).out_dir(&out).compile_fds(descriptors)?;
    let generated = std::fs::read_to_string(out.join("inflection.v1.rs"))?;
    std::fs::remove_dir_all(&out)?;

    let committed = here.join("src/gen/inflection.v1.rs");
    #[expect(clippy::disallowed_methods, reason = "a switch of this test, not a setting of the product")]
    if std::env::var("INFLECTION_REGENERATE").is_ok() {
        std::fs::write(&committed, &generated)?;
    }
    assert_eq!(
        std::fs::read_to_string(&committed)?,
        generated,
        "proto/ changed: run INFLECTION_REGENERATE=1 cargo test -p inflection-wire"
    );
    Ok(())
}
