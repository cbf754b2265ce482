//! One file a command.

pub(crate) mod bench;
mod config;
mod connections;
mod dead_letters;
mod demo;
mod explain;
mod healthcheck;
mod import;
mod ledger;
mod look;
mod persons;
mod provision;
mod sandbox;
mod stage;
mod standalone;
mod state;

use std::io::Write as _;

use crate::cli::Command;
use crate::{End, Failure};

/// Runs a command.
pub(crate) async fn run(command: Command) -> Result<End, Failure> {
    match command {
        Command::Demo(args) => demo::run(args).await,
        Command::Standalone(args) => standalone::run(args).await,
        Command::Ingest(args) => stage::run(args.stage, stage::Stage::Ingest(args.clock)).await,
        Command::Identity(args) => stage::run(args, stage::Stage::Identity).await,
        Command::Delivery(args) => stage::run(args, stage::Stage::Delivery).await,
        Command::Provision(args) => provision::run(args).await,
        Command::Sandbox(args) => sandbox::run(args).await,
        Command::Import(args) => import::run(args).await,
        Command::DeadLetters(args) => dead_letters::run(args).await,
        Command::Connections(args) => connections::run(args).await,
        Command::Persons(args) => persons::run(args).await,
        Command::Ledger(args) => ledger::run(args).await,
        Command::State(args) => state::run(args).await,
        Command::Explain(args) => explain::run(args).await,
        Command::Bench(args) => bench::run(args).await,
        Command::Config(args) => config::run(&args),
        Command::Healthcheck(args) => healthcheck::run(args).await,
    }
}

/// Prints a line of a command's result. A reader that has gone away is no error.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{line}") {
        tracing::debug!(%error, "nobody reads the output");
    }
}

/// Binds a listener, or says which address cannot be had.
async fn bind(flag: &str, address: std::net::SocketAddr) -> Result<tokio::net::TcpListener, Failure> {
    tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| Failure::Failed(anyhow::Error::new(error).context(format!("{flag} {address}"))))
}
