//! `import`: history from files, through ingest, below live traffic.
//!
//! A thread reads ahead and makes requests (`source`, `batches`); this one sends them, one at a time, so that a person's
//! events arrive in the order of the file (`send`), and notes after each how far it is (`state`). What a crash leaves in
//! between is sent again: ids, the senders' or derived from content, make that harmless.

mod batches;
mod input;
mod mapping;
mod outputs;
mod progress;
mod report;
mod send;
mod source;
mod state;
mod text;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use inflection_control::RateBudget;
use inflection_domain::{Timestamp, WorkspaceId};
use inflection_ingest::{LINES_BYTES_MAX, LINES_EVENTS_MAX, LineCheck};

use self::batches::{Limits, Refused};
use self::input::{Fingerprint, hash};
use self::mapping::Mapping;
use self::progress::Progress;
use self::report::{FileEnd, Rejects, Summary};
use self::send::Sender;
use self::source::{Prepared, Source};
use self::state::{Counts, State, beside};
use crate::cli::ImportArgs;
use crate::commands::say;
use crate::{End, Failure};

/// Name of a file's state: its own, and this.
const STATE_SUFFIX: &str = ".import-state";

pub(crate) async fn run(args: ImportArgs) -> Result<End, Failure> {
    let mapping = check(&args)?;
    let begun = Instant::now();
    let resumes = !args.restart
        && !args.dry_run
        && args.files.iter().any(|path| state_path(&args, path).is_some_and(|path| path.exists()));
    let rejects = Rejects::new(args.rejects.clone(), resumes, args.show_errors);
    let summary = Summary { dry_run: args.dry_run, ..Summary::default() };
    let mut import = Import { args: &args, mapping, rejects, summary };
    let outcome = if args.dry_run { import.check_files().await } else { import.send_files().await };
    let Import { rejects, mut summary, .. } = import;
    summary.time = begun.elapsed();
    // Also when it has failed: what was done is done.
    if !summary.files.is_empty() {
        say(&if args.json { summary.json(&rejects) } else { summary.text(&rejects) });
    }
    outcome?;
    Ok(if summary.has_refused() { End::Wrong } else { End::Done })
}

/// All that can be wrong with the flags, told at once.
fn check(args: &ImportArgs) -> Result<Mapping, Failure> {
    let mapping = Mapping::of(args);
    let mut mistakes = mapping.as_ref().err().cloned().unwrap_or_default();
    let standard_inputs = args.files.iter().filter(|path| is_standard_input(path)).count();
    if standard_inputs > 1 {
        mistakes.push("standard input is read once".to_owned());
    }
    if args.state_file.is_some() && args.files.len() > 1 {
        mistakes.push("--state-file is for one file; each has its own".to_owned());
    }
    if args.state_file.is_some() && standard_inputs > 0 {
        mistakes.push("standard input cannot be resumed: --state-file is for files".to_owned());
    }
    if !args.dry_run && args.ingest_key.as_deref().is_none_or(str::is_empty) {
        mistakes.push("give the workspace's ingest key with --ingest-key or INFLECTION_INGEST_KEY".to_owned());
    }
    if !["http://", "https://"].iter().any(|scheme| args.url.starts_with(scheme)) {
        mistakes.push("--url is an address like http://127.0.0.1:8080".to_owned());
    }
    mistakes.extend(outputs::mistakes(args));
    mapping.ok().filter(|_| mistakes.is_empty()).ok_or_else(|| Failure::Usage(mistakes.join("\n")))
}

fn is_standard_input(path: &Path) -> bool {
    path == Path::new("-")
}

/// A hash of where events are sent, by which an import knows whether its state is of there.
fn target(args: &ImportArgs) -> String {
    hash(format!("{}\n{}", args.url.trim_end_matches('/'), args.ingest_key.as_deref().unwrap_or_default()).as_bytes())
}

/// Where it is noted how far a file has come.
fn state_path(args: &ImportArgs, path: &Path) -> Option<PathBuf> {
    (!is_standard_input(path)).then(|| args.state_file.clone().unwrap_or_else(|| beside(path, STATE_SUFFIX)))
}

/// One run of the command.
struct Import<'a> {
    args: &'a ImportArgs,
    mapping: Mapping,
    rejects: Rejects,
    summary: Summary,
}

impl Import<'_> {
    async fn send_files(&mut self) -> Result<(), Failure> {
        let key = self.args.ingest_key.as_deref().unwrap_or_default();
        let give_up_after = self.args.give_up_after.map(Duration::from_secs);
        let mut sender = Sender::new(&self.args.url, key, give_up_after)?;
        let mut pace = self.args.events_per_second.map(Pace::new);
        let mut outcome = Ok(());
        for path in &self.args.files {
            outcome = self.send_file(path, &mut sender, pace.as_mut()).await;
            if outcome.is_err() {
                break;
            }
        }
        (self.summary.requests, self.summary.repeated) = (sender.requests, sender.repeated);
        outcome
    }

    async fn send_file(&mut self, path: &Path, sender: &mut Sender, pace: Option<&mut Pace>) -> Result<(), Failure> {
        let mut source = self.open(path)?;
        let state_path = state_path(self.args, path);
        let mut state = self.begin(&source, state_path.as_deref())?;
        let end = |state: &State, resumed_after_line| FileEnd {
            file: path.display().to_string(),
            counts: state.counts,
            done: state.done,
            resumed_after_line,
        };
        let resumed_after_line = state.position.lines;
        if state.done {
            tracing::info!(file = %path.display(), "this file is imported; --restart sends it again");
            self.summary.files.push(end(&state, resumed_after_line));
            return Ok(());
        }
        if state.position.offset > 0 {
            source.text.skip_to(state.position).with_context(|| format!("{} cannot be read", path.display()))?;
            tracing::info!(file = %path.display(), after_line = state.position.lines, "going on where an earlier run has ended");
        }
        let outcome = self.send_rest(path, source, sender, pace, (&mut state, state_path.as_deref())).await;
        self.summary.files.push(end(&state, resumed_after_line));
        outcome
    }

    /// The state to go on from.
    fn begin(&self, source: &Source, state_path: Option<&Path>) -> Result<State, Failure> {
        // What is no file has no state on disk.
        let fingerprint = source.fingerprint.clone().unwrap_or(Fingerprint { bytes: 0, head: String::new() });
        let begun = State::new(fingerprint, self.mapping.hash(), target(self.args));
        match state_path.filter(|_| !self.args.restart) {
            Some(path) => Ok(State::load(path, &begun).map_err(|why| anyhow!(why))?.unwrap_or(begun)),
            None => Ok(begun),
        }
    }

    async fn send_rest(
        &mut self,
        path: &Path,
        source: Source,
        sender: &mut Sender,
        mut pace: Option<&mut Pace>,
        (state, state_path): (&mut State, Option<&Path>),
    ) -> Result<(), Failure> {
        let progress = Progress::new(source.fingerprint.as_ref().map(|print| print.bytes), source.bytes_read());
        let limits = self.limits();
        let mut reading = source.start(path, limits, true);
        let mut run = Counts::default();
        let outcome: anyhow::Result<()> = async {
            while let Some(prepared) = reading.next().await? {
                if let Some(pace) = pace.as_deref_mut() {
                    pace.wait(prepared.batch.events.len()).await;
                }
                let bytes_read = prepared.bytes_read;
                run.add(self.send_batch(path, prepared, sender, &progress, state).await?);
                save(state, state_path)?;
                progress.advance(bytes_read, run);
            }
            state.done = true;
            save(state, state_path)
        }
        .await;
        progress.end();
        self.summary.counts.add(run);
        Ok(outcome?)
    }

    /// Sees a batch to its end, and moves the state over it.
    async fn send_batch(
        &mut self,
        path: &Path,
        prepared: Prepared,
        sender: &mut Sender,
        progress: &Progress,
        state: &mut State,
    ) -> anyhow::Result<Counts> {
        let Prepared { mut batch, packed, .. } = prepared;
        let mut refused = sender.deliver(&batch.events, &packed, progress).await?;
        let read = batch.read();
        refused.append(&mut batch.refused);
        self.refuse(path, &mut refused)?;
        let rejected = refused.len() as u64;
        let counts = Counts { read, accepted: read - rejected, rejected };
        state.counts.add(counts);
        state.position = batch.end;
        Ok(counts)
    }

    /// Checks all files and sends nothing.
    async fn check_files(&mut self) -> Result<(), Failure> {
        let workspace = WorkspaceId::new("any").context("the name of no workspace in particular")?;
        let now = Timestamp::from_ms(jiff::Timestamp::now().as_millisecond());
        let check = LineCheck::new(workspace, now);
        for path in &self.args.files {
            let source = self.open(path)?;
            let progress = Progress::new(source.fingerprint.as_ref().map(|print| print.bytes), 0);
            let (mut reading, mut run) = (source.start(path, self.limits(), false), Counts::default());
            let outcome: anyhow::Result<()> = async {
                while let Some(Prepared { mut batch, bytes_read, .. }) = reading.next().await? {
                    let (read, mut refused) = (batch.read(), std::mem::take(&mut batch.refused));
                    for index in 0..batch.events.len() {
                        match check.check(batch.events.event(index)) {
                            Ok(kind) => *self.summary.types.entry(kind).or_default() += 1,
                            Err(why) => refused.push(batch.events.refused(index, why.code, &why.message)),
                        }
                    }
                    self.refuse(path, &mut refused)?;
                    let rejected = refused.len() as u64;
                    run.add(Counts { read, accepted: read - rejected, rejected });
                    progress.advance(bytes_read, run);
                }
                Ok(())
            }
            .await;
            progress.end();
            self.summary.counts.add(run);
            let (file, done) = (path.display().to_string(), outcome.is_ok());
            self.summary.files.push(FileEnd { file, counts: run, done, resumed_after_line: 0 });
            outcome?;
        }
        Ok(())
    }

    /// Bounds of a request. At a rate, none is larger than what is earned in a second.
    fn limits(&self) -> Limits {
        let rate = self.args.events_per_second.and_then(|rate| usize::try_from(rate).ok()).unwrap_or(usize::MAX);
        let events = usize::from(self.args.batch).min(rate).min(LINES_EVENTS_MAX);
        Limits { events, bytes: LINES_BYTES_MAX }
    }

    /// Opens a file; the one for refused lines too, which a mistyped name thus does not empty.
    fn open(&mut self, path: &Path) -> Result<Source, Failure> {
        let source = Source::open(path, self.args.format, &self.mapping)?;
        self.rejects.open().context("--rejects cannot be written")?;
        if !source.unused().is_empty() {
            let columns = source.unused().join(", ");
            tracing::info!(file = %path.display(), columns, "these columns are no fields and are left out");
        }
        Ok(source)
    }

    /// Keeps refused lines, in the order of the file.
    fn refuse(&mut self, path: &Path, refused: &mut [Refused]) -> anyhow::Result<()> {
        refused.sort_by_key(|one| one.line);
        self.rejects.add(path, refused).context("--rejects cannot be written")
    }
}

fn save(state: &State, path: Option<&Path>) -> anyhow::Result<()> {
    match path {
        Some(path) => state.save(path).with_context(|| format!("{} cannot be written", path.display())),
        None => Ok(()),
    }
}

/// A rate that requests keep to.
struct Pace {
    budget: RateBudget,
    started: Instant,
}

impl Pace {
    fn new(per_second: u32) -> Self {
        Self { budget: RateBudget::new(per_second, Duration::ZERO), started: Instant::now() }
    }

    /// Waits until so many events may be sent.
    async fn wait(&mut self, events: usize) {
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        while let Err(wait) = self.budget.take(events, self.started.elapsed()) {
            tokio::time::sleep(wait).await;
        }
    }
}
