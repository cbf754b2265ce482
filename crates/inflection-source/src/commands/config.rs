//! `config check` and `config seal`.

use std::io::Read as _;

use anyhow::Context as _;
use inflection_control::{Binding, Config};
use inflection_domain::{ConnectionId, WorkspaceId};

use crate::cli::{ConfigAction, ConfigArgs, ConfigFileArgs, SealArgs};
use crate::commands::say;
use crate::{End, Failure, settings};

/// Most bytes of a secret.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

pub(crate) fn run(args: &ConfigArgs) -> Result<End, Failure> {
    match &args.action {
        ConfigAction::Check(file) => check(file),
        ConfigAction::Seal(args) => seal(args),
    }
}

fn check(file: &ConfigFileArgs) -> Result<End, Failure> {
    if file.config.is_none() {
        return Err(Failure::Usage("give the file with --config".to_owned()));
    }
    let config = settings::file(file)?;
    let connections: usize = config.workspaces.iter().map(|workspace| workspace.connections.len()).sum();
    say(&format!("ok: {} workspaces, {connections} connections", config.workspaces.len()));
    Ok(End::Done)
}

fn seal(args: &SealArgs) -> Result<End, Failure> {
    let key = Config::load_master_key(&args.config).map_err(|error| Failure::Usage(error.to_string()))?;
    let missing = || Failure::Usage("the file has no installation.master_key: 64 hexadecimal digits".to_owned());
    let master = key.ok_or_else(missing)?;
    let wrong = |error: inflection_domain::InvalidId| Failure::Usage(error.to_string());
    let workspace = WorkspaceId::new(&args.workspace).map_err(wrong)?;
    let binding = match &args.connection {
        Some(connection) => Binding::write_key(&workspace, &ConnectionId::new(connection).map_err(wrong)?),
        None if args.ingest_key => Binding::ingest_key(&workspace),
        None => Binding::webhook(&workspace),
    };
    let mut secret = String::new();
    let input = std::io::stdin().lock();
    input
        .take(SECRET_BYTES_MAX)
        .read_to_string(&mut secret)
        .context("the secret cannot be read from standard input")?;
    let sealed = master.seal(&binding, secret.trim()).context("the secret cannot be sealed")?;
    say(&format!("{{ sealed = \"{sealed}\" }}"));
    Ok(End::Done)
}
