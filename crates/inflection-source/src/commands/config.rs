//! `config check`.

use crate::cli::{ConfigAction, ConfigArgs};
use crate::commands::say;
use crate::{End, Failure, settings};

pub(crate) fn run(args: &ConfigArgs) -> Result<End, Failure> {
    let ConfigAction::Check(file) = &args.action;
    if file.config.is_none() {
        return Err(Failure::Usage("give the file with --config".to_owned()));
    }
    let config = settings::file(file)?;
    let connections: usize = config.workspaces.iter().map(|workspace| workspace.connections.len()).sum();
    say(&format!("ok: {} workspaces, {connections} connections", config.workspaces.len()));
    Ok(End::Done)
}
