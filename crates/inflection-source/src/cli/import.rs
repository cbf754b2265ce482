//! Flags of `import`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// How a file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImportFormat {
    /// One JSON object a line.
    Ndjson,
    /// Rows under a header.
    Csv,
}

/// What `import` is told.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Files of events, one after the other: NDJSON or CSV, compressed with gzip or not, told by content. `-` is standard
    /// input, which cannot be resumed.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Ingest of a running install.
    #[arg(long, env = "INFLECTION_URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) url: String,
    /// Ingest key of the workspace.
    #[arg(long, env = "INFLECTION_INGEST_KEY", hide_env_values = true)]
    pub(crate) ingest_key: Option<String>,
    /// How the files are laid out; told by the first character, unless set.
    #[arg(long, value_enum)]
    pub(crate) format: Option<ImportFormat>,
    /// Column of a field, as field=column; repeat for more. Columns that have the name of a field need none.
    #[arg(long, value_name = "FIELD=COLUMN")]
    pub(crate) map: Vec<String>,
    /// What a field is in every row, as field=value; repeat for more.
    #[arg(long, value_name = "FIELD=VALUE")]
    pub(crate) set: Vec<String>,
    /// The same in a file (TOML), and what values are called: docs/import.md has an example.
    #[arg(long, value_name = "FILE", env = "INFLECTION_IMPORT_MAPPING")]
    pub(crate) mapping: Option<PathBuf>,
    /// What stands between the fields of a row: one character, or `tab`. A comma, unless set.
    #[arg(long, value_name = "CHARACTER")]
    pub(crate) delimiter: Option<String>,
    /// Sends nothing; checks every line by the rules of ingest and counts. Exit code 2 when one would be refused.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Refused lines that are shown.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) show_errors: usize,
    /// Keeps refused lines in this file, each as JSON with line number, code, message and its text. It may hold addresses:
    /// only its owner may read it.
    #[arg(long, value_name = "FILE")]
    pub(crate) rejects: Option<PathBuf>,
    /// Where it is noted how far a file has come. Beside the file, under its name and `.import-state`, unless set.
    #[arg(long, value_name = "FILE")]
    pub(crate) state_file: Option<PathBuf>,
    /// Begins again with the first line, whatever was noted.
    #[arg(long)]
    pub(crate) restart: bool,
    /// Most events a second; as fast as it goes, unless set. Stay below the `events_per_second` of the connections, or
    /// live events queue behind the imported ones.
    #[arg(long, value_name = "N", env = "INFLECTION_IMPORT_EVENTS_PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) events_per_second: Option<u32>,
    /// Most events of a request. They are sent one request at a time, so that each person's events keep their order.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) batch: u16,
    /// Ends after so many seconds without an answer that takes anything. Tries for ever, unless set.
    #[arg(long, value_name = "SECONDS", env = "INFLECTION_IMPORT_GIVE_UP_AFTER")]
    pub(crate) give_up_after: Option<u64>,
    /// Prints the summary as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
