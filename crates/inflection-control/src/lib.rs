//! Workspaces, connections, keys and secrets, and the configuration file they come from.
//!
//! [`Config::parse`] reads the whole file and reports every mistake at once, each with its line. Nothing here opens a
//! port or a connection; nothing here prints a secret. A [`MasterKey`] seals secrets, so that the file may lie where
//! others read it.

mod certificate;
mod config;
mod directory;
mod document;
mod keys;
mod rate;
mod sealed;
mod secret;
mod webhook;

pub use certificate::{Certificate, Digest};
pub use config::{
    BusSettings, Config, ConfigError, Connection, EmailPolicy, IngestLimits, InstallationSettings, Mistake, Naming,
    Options, Uniqueness, Workspace,
};
pub use directory::{Directory, DirectoryWriter};
pub use keys::{IngestKeys, KeyId};
pub use rate::RateBudget;
pub use sealed::{Binding, MasterKey, SealError};
pub use secret::Secret;
pub use webhook::{AuthFailure, Field, Guard, KeyForm, P256_SPKI_PREFIX, Provider, Webhook};
