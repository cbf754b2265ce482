//! What is told at the end, and the refused lines.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::batches::Refused;
use super::progress::per_second;
use super::state::Counts;

/// Refused lines: the first are shown, all are kept in a file if there is one.
#[derive(Debug)]
pub(super) struct Rejects {
    /// The file, until it is open.
    path: Option<PathBuf>,
    after: bool,
    file: Option<BufWriter<File>>,
    shown: Vec<Shown>,
    shown_max: usize,
    count: u64,
}

/// A refused line without its text, which may hold addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Shown {
    file: String,
    line: u64,
    code: String,
    message: String,
}

impl Rejects {
    /// Keeps them in a file, if there is one: after what is in it, or instead.
    pub(super) fn new(path: Option<PathBuf>, after: bool, shown_max: usize) -> Self {
        Self { path, after, file: None, shown: Vec::new(), shown_max, count: 0 }
    }

    /// Opens the file, once; only its owner may read it.
    pub(super) fn open(&mut self) -> io::Result<()> {
        let Some(path) = self.path.take() else { return Ok(()) };
        let mut options = OpenOptions::new();
        let file = options.create(true).append(self.after).truncate(!self.after).write(true).mode(0o600).open(path)?;
        if file.metadata()?.is_file() {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        self.file = Some(BufWriter::new(file));
        Ok(())
    }

    /// Adds lines of a file; they are on disk when it returns.
    pub(super) fn add(&mut self, path: &Path, refused: &[Refused]) -> io::Result<()> {
        self.count += refused.len() as u64;
        let name = path.display().to_string();
        for one in refused.iter().take(self.shown_max.saturating_sub(self.shown.len())) {
            let (code, message) = (one.code.clone(), one.message.clone());
            self.shown.push(Shown { file: name.clone(), line: one.line, code, message });
        }
        let Some(file) = self.file.as_mut().filter(|_| !refused.is_empty()) else { return Ok(()) };
        for Refused { line, code, message, written } in refused {
            let text = String::from_utf8_lossy(written);
            writeln!(file, "{}", json!({"file": name, "line": line, "code": code, "message": message, "text": text}))?;
        }
        file.flush()?;
        if file.get_ref().metadata()?.is_file() { file.get_ref().sync_data() } else { Ok(()) }
    }
}

/// How a file ended.
#[derive(Debug, Clone, Serialize)]
pub(super) struct FileEnd {
    pub(super) file: String,
    /// Of all runs of its import.
    #[serde(flatten)]
    pub(super) counts: Counts,
    /// Nothing of it is left.
    pub(super) done: bool,
    /// Lines that an earlier run had come to.
    pub(super) resumed_after_line: u64,
}

/// The whole import, or a check of it.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) dry_run: bool,
    pub(super) files: Vec<FileEnd>,
    /// Good events by type, of a dry run.
    pub(super) types: BTreeMap<&'static str, u64>,
    /// Of this run.
    pub(super) counts: Counts,
    pub(super) time: Duration,
    pub(super) requests: u64,
    pub(super) repeated: u64,
}

impl Summary {
    /// Whether a line was refused, in this run or an earlier one.
    pub(super) fn has_refused(&self) -> bool {
        self.files.iter().any(|file| file.counts.rejected > 0)
    }

    pub(super) fn json(&self, rejects: &Rejects) -> String {
        let mut summary = json!({
            "dry_run": self.dry_run,
            "complete": self.files.iter().all(|file| file.done),
            "files": self.files,
            "read": self.counts.read,
            "accepted": self.counts.accepted,
            "rejected": self.counts.rejected,
            "seconds": self.time.as_secs_f64(),
            "events_per_second": per_second(self.counts.read, self.time),
            "errors": rejects.shown,
        });
        if let Some(summary) = summary.as_object_mut() {
            if self.dry_run {
                summary.insert("types".to_owned(), json!(self.types));
            } else {
                summary.insert("requests".to_owned(), json!(self.requests));
                summary.insert("repeated".to_owned(), json!(self.repeated));
            }
        }
        summary.to_string()
    }

    pub(super) fn text(&self, rejects: &Rejects) -> String {
        let mut lines = Vec::new();
        for file in &self.files {
            let Counts { read, accepted, rejected } = file.counts;
            let taken = if self.dry_run { "good" } else { "accepted" };
            let state = match (file.done, file.resumed_after_line) {
                (false, _) => ", not finished".to_owned(),
                (true, 0) => String::new(),
                (true, line) => format!(" (gone on after line {line})"),
            };
            lines.push(format!("{}: {read} events read, {accepted} {taken}, {rejected} rejected{state}", file.file));
        }
        lines.extend(self.types.iter().map(|(kind, count)| format!("  {count:>9}  {kind}")));
        for Shown { file, line, code, message } in &rejects.shown {
            lines.push(format!("  {file}, line {line}: {code}: {message}"));
        }
        let unshown = rejects.count - rejects.shown.len() as u64;
        if unshown > 0 {
            lines.push(format!("  and {unshown} more; --rejects FILE keeps all of them"));
        }
        let rate = per_second(self.counts.read, self.time);
        let seconds = self.time.as_secs_f64();
        lines.push(if self.dry_run {
            format!("checked {} events in {seconds:.1} s, {rate}/s; nothing was sent", self.counts.read)
        } else {
            let (requests, repeated) = (self.requests, self.repeated);
            format!(
                "imported {} events in {seconds:.1} s, {rate}/s; {requests} requests, {repeated} of them sent again",
                self.counts.accepted
            )
        });
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: u64) -> Refused {
        Refused { line, code: "bad_id".to_owned(), message: "m".to_owned(), written: b"{\"a\":\xff}".to_vec() }
    }

    #[test]
    fn refused_lines_are_kept_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rejects.ndjson");
        std::fs::write(&path, "of another import\n").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        for (after, lines) in [(false, 2), (true, 4)] {
            let mut rejects = Rejects::new(Some(path.clone()), after, 1);
            rejects.open().unwrap();
            rejects.open().unwrap();
            rejects.add(Path::new("f"), &[refused(1), refused(2)]).unwrap();
            assert_eq!((rejects.shown.len(), rejects.count), (1, 2));
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text.lines().count(), lines);
            let first = r#"{"file":"f","line":1,"code":"bad_id","message":"m","text":"{\"a\":"#;
            let sorted = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            assert_eq!(sorted(text.lines().next().unwrap()), sorted(&format!("{first}\u{fffd}}}\"}}")));
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
