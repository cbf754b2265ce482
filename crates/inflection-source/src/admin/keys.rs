//! The keys of the admin API: given as they are, or in a file that is read again while the process runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use inflection_control::Secret;
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq as _;
use tokio_util::sync::CancellationToken;

/// How often the file is read again.
const READ_EVERY: Duration = Duration::from_secs(1);
/// Keys that a file may hold: the new one and the old one, while one is replaced by the other.
const KEYS_MAX: usize = 2;

/// The keys that are accepted now. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys {
    file: Option<Arc<PathBuf>>,
    now: Arc<RwLock<Vec<Secret>>>,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    #[error("--admin-key is empty")]
    Empty,
    #[error("--admin-key-file {path} cannot be read: {why}")]
    Unreadable { path: PathBuf, why: std::io::Error },
    #[error("--admin-key-file {path} must hold one key, or two in lines of their own, and holds {found}")]
    Count { path: PathBuf, found: usize },
}

impl Keys {
    /// The key that was given, or those of a file; none when neither was given.
    pub(crate) fn of(key: Option<&str>, file: Option<&Path>) -> Result<Self, KeysError> {
        let keys = match (key, file) {
            (Some(key), _) => vec![Secret::new(key).ok_or(KeysError::Empty)?],
            (None, Some(file)) => read(file)?,
            (None, None) => Vec::new(),
        };
        let file = if key.is_some() { None } else { file };
        Ok(Self { file: file.map(|file| Arc::new(file.to_owned())), now: Arc::new(RwLock::new(keys)) })
    }

    /// Whether a key is needed at all.
    pub(crate) fn any(&self) -> bool {
        !self.now().is_empty()
    }

    /// Whether this is one of them. Takes as long whichever it is, and however much of it is right.
    pub(crate) fn accept(&self, given: &str) -> bool {
        let hash = |text: &str| digest(&SHA256, text.as_bytes());
        let given = hash(given.trim());
        let keys = self.now();
        let equal = keys.iter().map(|key| given.as_ref().ct_eq(hash(key.expose()).as_ref()));
        equal.fold(subtle::Choice::from(0), |any, one| any | one).into()
    }

    fn now(&self) -> Vec<Secret> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the file again and again until `shutdown`. What cannot be used changes nothing, and is said once.
    pub(crate) async fn follow(self, shutdown: CancellationToken) {
        let Some(file) = self.file.clone() else { return };
        let mut told = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(READ_EVERY) => {}
            }
            let file = Arc::clone(&file);
            let Ok(outcome) = tokio::task::spawn_blocking(move || read(&file)).await else { return };
            match outcome {
                Ok(keys) => {
                    told = None;
                    if keys != self.now() {
                        tracing::info!(keys = keys.len(), "the admin keys have changed");
                        *self.now.write().unwrap_or_else(PoisonError::into_inner) = keys;
                    }
                }
                Err(error) => {
                    let why = error.to_string();
                    if told.as_ref() != Some(&why) {
                        tracing::warn!(why, "the changed admin keys cannot be used; those before stay in force");
                        told = Some(why);
                    }
                }
            }
        }
    }
}

/// The first key of what is given, for a program that asks.
pub(crate) fn first(key: Option<&str>, file: Option<&Path>) -> Result<Option<String>, KeysError> {
    Ok(Keys::of(key, file)?.now().first().map(|key| key.expose().to_owned()))
}

/// One key a line.
fn read(path: &Path) -> Result<Vec<Secret>, KeysError> {
    let keys = Secret::lines_of(path).map_err(|why| KeysError::Unreadable { path: path.to_owned(), why })?;
    match keys.len() {
        1..=KEYS_MAX => Ok(keys),
        found => Err(KeysError::Count { path: path.to_owned(), found }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_one_key_or_two() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("admin-key");
        assert!(matches!(Keys::of(None, Some(&file)), Err(KeysError::Unreadable { .. })));
        for (text, expected) in [("", 0), ("\n \n", 0), ("a\nb\nc", 3)] {
            std::fs::write(&file, text).unwrap();
            let error = Keys::of(None, Some(&file)).unwrap_err();
            assert!(matches!(error, KeysError::Count { found, .. } if found == expected), "{text:?}: {error}");
        }
        for (text, accepted) in [("one\n", ["one", "one"]), ("\nnew\r\n old", ["new", "old"])] {
            std::fs::write(&file, text).unwrap();
            let keys = Keys::of(None, Some(&file)).unwrap();
            assert!(keys.any() && accepted.iter().all(|key| keys.accept(key)), "{text:?}");
            for wrong in ["", "on", "onex", "new\nold"] {
                assert!(!keys.accept(wrong), "{text:?} {wrong:?}");
            }
        }
        assert_eq!(first(None, Some(&file)).unwrap().as_deref(), Some("new"));
    }

    #[test]
    fn without_a_key_none_is_needed_and_none_is_right() {
        let keys = Keys::of(None, None).unwrap();
        assert!(!keys.any() && !keys.accept(""));
        assert!(matches!(Keys::of(Some(" "), None), Err(KeysError::Empty)));
        assert!(Keys::of(Some("key"), None).unwrap().accept(" key "));
    }
}
