//! Who may send events.

use std::collections::HashMap;
use std::fmt;

use inflection_domain::WorkspaceId;
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq as _;

use crate::Workspace;

/// Which ingest key, or which webhook's token, it is: a hash, so that it may be kept where they may not.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 32]);

impl KeyId {
    /// The id of a key.
    #[must_use]
    pub fn of(key: &str) -> Self {
        Self(hash(key).1)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyId(<redacted>)")
    }
}

/// The ingest keys of all workspaces, as hashes. Looking one up takes the same time whether it exists or not.
#[derive(Debug, Default)]
pub struct IngestKeys {
    /// By the first eight bytes of the hash, which say nothing about the key; the rest is compared in constant time.
    by_prefix: HashMap<[u8; 8], Vec<([u8; 32], WorkspaceId)>>,
}

impl IngestKeys {
    /// The keys of these workspaces.
    #[must_use]
    pub fn of(workspaces: &[Workspace]) -> Self {
        let mut keys = Self::default();
        for workspace in workspaces {
            for key in &workspace.ingest_keys {
                let (prefix, hash) = hash(key.expose());
                keys.by_prefix.entry(prefix).or_default().push((hash, workspace.id.clone()));
            }
        }
        keys
    }

    /// The workspace of a key, and which of its keys it is.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<(&WorkspaceId, KeyId)> {
        let (prefix, presented) = hash(key);
        let candidates = self.by_prefix.get(&prefix).map(Vec::as_slice).unwrap_or_default();
        let found = candidates.iter().find(|(hash, _)| bool::from(hash.ct_eq(&presented)));
        found.map(|(_, workspace)| (workspace, KeyId(presented)))
    }
}

fn hash(key: &str) -> ([u8; 8], [u8; 32]) {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
    let [a, b, c, d, e, f, g, h, ..] = hash;
    ([a, b, c, d, e, f, g, h], hash)
}
