//! One file of the journal.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Number of a journal file; later files have larger numbers.
pub(super) type SegmentNumber = u32;

/// Most slices that one system call takes (`IOV_MAX` of Linux).
const SLICES_MAX: usize = 1024;

/// Name of a file that is not yet one of the journal.
const UNFINISHED: &str = "journal.tmp";

/// One file of the journal. Clones share the file, so a reader may finish while the file is being deleted.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) number: SegmentNumber,
    pub(super) path: Arc<PathBuf>,
    /// Bytes that are allocated for it.
    pub(super) bytes: u64,
    file: Arc<File>,
}

impl Segment {
    fn path(dir: &Path, number: SegmentNumber) -> PathBuf {
        dir.join(format!("journal-{number:08x}.log"))
    }

    /// The files in a directory, oldest first.
    pub(super) fn list(dir: &Path) -> io::Result<Vec<SegmentNumber>> {
        let mut numbers: Vec<SegmentNumber> = std::fs::read_dir(dir)?
            .filter_map(|entry| {
                let name = entry.ok()?.file_name();
                let number = name.to_str()?.strip_prefix("journal-")?.strip_suffix(".log")?;
                SegmentNumber::from_str_radix(number, 16).ok()
            })
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Makes a new file that begins with `head`, its space allocated, so that writing into it neither runs out of disk nor
    /// changes the file's length. It gets its name when its head is durable: a file with a name is a whole file.
    pub(super) fn create(dir: &Path, number: SegmentNumber, bytes: u64, head: &[u8]) -> io::Result<Self> {
        let (path, unfinished) = (Self::path(dir, number), dir.join(UNFINISHED));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&unfinished)?;
        let made = allocate(&file, bytes)
            .and_then(|()| file.write_all_at(head, 0))
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::rename(&unfinished, &path))
            .and_then(|()| sync_dir(dir));
        if let Err(error) = made {
            // Gives its room back; the name is not a journal's, so leaving it would do no other harm.
            if let Err(left) = std::fs::remove_file(&unfinished) {
                tracing::debug!(error = %left, "an unfinished journal file is left");
            }
            return Err(error);
        }
        Ok(Self { number, path: Arc::new(path), bytes, file: Arc::new(file) })
    }

    pub(super) fn open(dir: &Path, number: SegmentNumber) -> io::Result<Self> {
        let path = Self::path(dir, number);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { number, path: Arc::new(path), bytes, file: Arc::new(file) })
    }

    pub(super) fn read_all(&self) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.file.metadata()?.len()).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    pub(super) fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Writes all of them, one after the other.
    pub(super) fn write_slices_at(&self, mut offset: u64, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        while slices.iter().any(|slice| !slice.is_empty()) {
            let some = slices.get(..SLICES_MAX).unwrap_or(slices);
            let written = match rustix::io::pwritev(&*self.file, some, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            offset += written as u64;
            IoSlice::advance_slices(&mut slices, written);
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Overwrites everything from `offset` on with zeros: what a crash left half-written must not be read again.
    pub(super) fn clear_from(&self, offset: u64) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        self.file.set_len(offset)?;
        allocate(&self.file, length)?;
        self.file.sync_all()
    }

    /// Removes everything from `offset` on, and takes its room again if there is any: needs none itself, so that a disk which
    /// has filled up in the middle of a write can be left as it was before.
    pub(super) fn cut_from(&self, offset: u64) -> io::Result<()> {
        self.file.set_len(offset)?;
        if let Err(error) = allocate(&self.file, self.bytes) {
            tracing::debug!(%error, "the room behind the journal's end is not reserved any more");
        }
        self.file.sync_all()
    }

    /// Gives back the room behind what was written.
    pub(super) fn truncate(&self, end: u64) -> io::Result<()> {
        self.file.set_len(end)
    }

    pub(super) fn delete(&self, dir: &Path) -> io::Result<()> {
        std::fs::remove_file(&*self.path)?;
        sync_dir(dir)
    }
}

fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        // Not every file system can; then a full disk is met at a write instead.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(bytes),
        outcome => outcome.map_err(io::Error::from),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
