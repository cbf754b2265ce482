//! The Inflection Source for Segment: one binary, every stage.
//!
//! No rule lives here: this crate reads flags and files, wires the stages to a bus, listens for probes and signals, and
//! speaks to people.

mod admin;
mod cli;
mod commands;
mod decided;
mod explain;
mod install;
mod ledger;
mod memory;
mod metrics;
mod persons;
mod reload;
mod settings;
mod stages;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How a command ends, as exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Done.
    Done,
    /// The work ended, but something is wrong with the result.
    Wrong,
}

/// Why a command could not do its work.
#[derive(Debug)]
enum Failure {
    /// The command line or the configuration is wrong.
    Usage(String),
    /// Anything else.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage(message) => f.write_str(message),
            Self::Failed(error) => write!(f, "{error:#}"),
        }
    }
}

const EXIT_FAILED: u8 = 1;
const EXIT_WRONG: u8 = 2;
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let told = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked && told.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_USAGE) };
        }
    };
    match run(cli) {
        Ok(End::Done) => ExitCode::SUCCESS,
        Ok(End::Wrong) => ExitCode::from(EXIT_WRONG),
        Err(failure) => {
            complain(&failure.to_string());
            ExitCode::from(match failure {
                Failure::Usage(_) => EXIT_USAGE,
                Failure::Failed(_) => EXIT_FAILED,
            })
        }
    }
}

fn run(cli: Cli) -> Result<End, Failure> {
    inflection_telemetry::init_logs(cli.log_format, &cli.log_level)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    raise_file_limit();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed before");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(anyhow::Error::new(error).context("the runtime cannot start")))?;
    runtime.block_on(commands::run(cli.command))
}

/// Says what is wrong where people look for it.
#[expect(clippy::print_stderr, reason = "the last word of a command-line program")]
fn complain(message: &str) {
    eprintln!("inflection-source: {message}");
}

/// Connections are files; the usual soft limit of 1,024 is not a number for a server.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
