//! How far an import has come, beside its file: written after each request that was acknowledged.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::input::Fingerprint;
use super::text::Position;

const VERSION: u32 = 2;

/// What has come to an end, since the import of the file began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Lines or rows read; empty lines are none.
    pub(super) read: u64,
    /// On disk at ingest.
    pub(super) accepted: u64,
    /// Refused, by ingest or before.
    pub(super) rejected: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: Self) {
        self.read += other.read;
        self.accepted += other.accepted;
        self.rejected += other.rejected;
    }
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    pub(super) file: Fingerprint,
    /// Hash of how rows become events.
    pub(super) mapping: String,
    /// Hash of where it is sent. Missing in version 1, which is refused for its version and not as damaged.
    #[serde(default)]
    pub(super) target: String,
    /// Everything before it has come to an end.
    pub(super) position: Position,
    pub(super) counts: Counts,
    /// Nothing is left.
    pub(super) done: bool,
}

impl State {
    /// The beginning of an import.
    pub(super) fn new(file: Fingerprint, mapping: String, target: String) -> Self {
        let (position, counts) = (Position::default(), Counts::default());
        Self { version: VERSION, file, mapping, target, position, counts, done: false }
    }

    /// What an earlier run has left, if it was about the same file, mapping and install.
    ///
    /// # Errors
    /// In the words of the operator.
    pub(super) fn load(path: &Path, begun: &Self) -> Result<Option<Self>, String> {
        let shown = path.display();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{shown} cannot be read: {error}")),
        };
        let again = "--restart begins again with the first line; what was sent before is then found to be a repeat";
        let state: Self = serde_json::from_str(&text)
            .map_err(|error| format!("{shown} is no state of an import ({error}); {again}"))?;
        if state.version != VERSION {
            return Err(format!("{shown} is of another version of this program; {again}"));
        }
        if state.file != begun.file {
            let (was, is) = (state.file.bytes, begun.file.bytes);
            let what =
                if was == is { "its beginning differs".to_owned() } else { format!("{was} bytes then, {is} now") };
            return Err(format!("the file has changed since its import began ({what}, says {shown}); {again}"));
        }
        if state.mapping != begun.mapping {
            return Err(format!("columns were mapped in another way when this import began (says {shown}); {again}"));
        }
        if state.target != begun.target {
            return Err(format!(
                "this import was sent to another --url or with another --ingest-key (says {shown}): give it a --state-file \
                 of its own, or with the same workspace at the other end --restart"
            ));
        }
        Ok(Some(state))
    }

    /// Puts it in place of the one before, as a whole, whatever ends this process meanwhile.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        let fresh = beside(path, ".new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&text)?;
        file.sync_data()?;
        fs::rename(&fresh, path)?;
        // The name is on disk when its directory is.
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    }
}

/// A name beside a file: the file's own and a suffix.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(bytes: u64) -> State {
        State::new(Fingerprint { bytes, head: "abc".to_owned() }, "plain".to_owned(), "here".to_owned())
    }

    #[test]
    fn what_was_saved_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = beside(&dir.path().join("events.ndjson"), ".import-state");
        assert_eq!(State::load(&path, &begun(7)), Ok(None));
        let mut state = begun(7);
        state.save(&path).unwrap();
        state.position = Position { offset: 5, lines: 2 };
        state.counts = Counts { read: 2, accepted: 1, rejected: 1 };
        state.save(&path).unwrap();
        assert_eq!(State::load(&path, &begun(7)), Ok(Some(state)));
    }

    #[test]
    fn another_file_mapping_or_install_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        begun(7).save(&path).unwrap();
        let why = |begun: &State| State::load(&path, begun).unwrap_err();
        assert!(why(&begun(8)).contains("7 bytes then, 8 now"), "{}", why(&begun(8)));
        let mut other = begun(7);
        other.file.head = "abd".to_owned();
        assert!(why(&other).contains("its beginning differs"), "{}", why(&other));
        other = begun(7);
        other.mapping = "changed".to_owned();
        assert!(why(&other).contains("mapped in another way"), "{}", why(&other));
        other = begun(7);
        other.target = "there".to_owned();
        assert!(why(&other).contains("another --url or with another --ingest-key"), "{}", why(&other));
        let mut older = serde_json::to_value(begun(7)).unwrap();
        older["version"] = 1.into();
        older.as_object_mut().unwrap().remove("target");
        fs::write(&path, older.to_string()).unwrap();
        assert!(why(&begun(7)).contains("another version"), "{}", why(&begun(7)));
        fs::write(&path, "{").unwrap();
        assert!(why(&begun(7)).contains("is no state of an import"), "{}", why(&begun(7)));
    }
}
