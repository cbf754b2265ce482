//! A file as batches: opened, understood, and read ahead on a thread of its own.

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, anyhow};
use axum::body::Bytes;
use tokio::sync::mpsc;

use super::batches::{Batch, Limits, Shape, read};
use super::input::{Fingerprint, Input};
use super::mapping::Mapping;
use super::send::gzip;
use super::text::{Framing, Text};
use crate::Failure;
use crate::cli::ImportFormat;

/// Batches that are ready beside the one that is sent.
const AHEAD_MAX: usize = 2;

/// A file whose records are understood.
pub(super) struct Source {
    pub(super) text: Text<Box<dyn Read + Send>>,
    shape: Shape,
    pub(super) fingerprint: Option<Fingerprint>,
    bytes_read: Arc<AtomicU64>,
}

/// A batch that is ready to be sent.
pub(super) struct Prepared {
    pub(super) batch: Batch,
    /// Its events, compressed.
    pub(super) packed: Bytes,
    /// How many bytes of the file were read when it was ready.
    pub(super) bytes_read: u64,
}

/// What the reading thread says.
enum Ahead {
    Prepared(Prepared),
    /// The last word: the end of the text, or what is wrong with it.
    End(io::Result<()>),
}

/// A file that is read ahead.
pub(super) struct Reading {
    ahead: mpsc::Receiver<Ahead>,
    file: String,
    /// How far it was read.
    lines: u64,
}

impl Reading {
    /// The next batch; `None` at the end of the text.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Prepared>> {
        match self.ahead.recv().await {
            Some(Ahead::Prepared(prepared)) => {
                self.lines = prepared.batch.end.lines;
                Ok(Some(prepared))
            }
            Some(Ahead::End(Ok(()))) => Ok(None),
            Some(Ahead::End(Err(error))) => {
                let (file, lines) = (&self.file, self.lines);
                Err(anyhow::Error::new(error).context(format!("{file} cannot be read further than line {lines}")))
            }
            None => Err(anyhow!("reading {} has ended early", self.file)),
        }
    }
}

impl Source {
    /// Opens a file and looks what it is.
    pub(super) fn open(path: &Path, format: Option<ImportFormat>, mapping: &Mapping) -> Result<Self, Failure> {
        let shown = path.display();
        let cannot = || format!("{shown} cannot be read");
        let Input { text, read, fingerprint } = Input::open(path).with_context(cannot)?;
        let mut text = Text::new(text);
        let format = match (format, text.first_byte().with_context(cannot)?) {
            (Some(format), _) => format,
            (None, Some(b'{') | None) => ImportFormat::Ndjson,
            (None, Some(b'[')) => {
                let message = format!("{shown} is one JSON array; write one event a line, like `jq -c '.[]'` does");
                return Err(Failure::Usage(message));
            }
            (None, Some(_)) => ImportFormat::Csv,
        };
        let shape = match format {
            ImportFormat::Ndjson if mapping.is_plain() => Shape::Events,
            ImportFormat::Ndjson => {
                let message = format!("{shown} is NDJSON: --map, --set, --mapping and --delimiter are for CSV");
                return Err(Failure::Usage(message));
            }
            ImportFormat::Csv => rows(&mut text, mapping, path)?,
        };
        Ok(Self { text, shape, fingerprint, bytes_read: read })
    }

    /// Columns that are no field.
    pub(super) fn unused(&self) -> &[String] {
        match &self.shape {
            Shape::Events => &[],
            Shape::Rows { plan, .. } => &plan.unused,
        }
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Reads ahead on a thread, until the end or until nobody listens.
    pub(super) fn start(self, path: &Path, limits: Limits, pack: bool) -> Reading {
        let (sender, receiver) = mpsc::channel(AHEAD_MAX);
        let Self { mut text, shape, bytes_read, .. } = self;
        // Not a task: one that waits for standard input would keep the process from ending.
        std::thread::spawn(move || {
            let outcome = read(&mut text, &shape, limits, |batch| {
                let packed = if pack { gzip(batch.events.body(0..batch.events.len())) } else { Bytes::new() };
                let bytes_read = bytes_read.load(Ordering::Relaxed);
                match sender.blocking_send(Ahead::Prepared(Prepared { batch, packed, bytes_read })) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_nobody_listens) => ControlFlow::Break(()),
                }
            });
            // Nobody listens when the import has failed, and has said so.
            sender.blocking_send(Ahead::End(outcome)).ok();
        });
        Reading { ahead: receiver, file: path.display().to_string(), lines: 0 }
    }
}

/// Reads the header of a CSV.
fn rows(text: &mut Text<Box<dyn Read + Send>>, mapping: &Mapping, path: &Path) -> Result<Shape, Failure> {
    let (shown, delimiter) = (path.display(), mapping.delimiter());
    text.set_framing(Framing::Rows { delimiter, columns: None });
    let record = text.next().with_context(|| format!("{shown} cannot be read"))?;
    let header = record.filter(|record| record.flaw.is_none()).ok_or_else(|| anyhow!("{shown} has no header"))?;
    let header = std::str::from_utf8(header.bytes).with_context(|| format!("the header of {shown} is not UTF-8"))?;
    let mut fields = super::text::Fields::default();
    fields.read(header, delimiter);
    let header: Vec<String> =
        (0..fields.len()).filter_map(|at| fields.get(at)).map(|name| name.trim().to_owned()).collect();
    let plan = mapping.plan(&header).map_err(|mistakes| {
        let columns = header.join(", ");
        Failure::Usage(format!("{shown} with the columns {columns}:\n{}", mistakes.join("\n")))
    })?;
    text.set_framing(Framing::Rows { delimiter, columns: Some(plan.columns) });
    Ok(Shape::Rows { plan, delimiter })
}
