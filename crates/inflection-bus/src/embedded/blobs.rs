//! Blobs of the embedded store: one file each, written beside and renamed, so that a blob is whole or not there.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::Store;
use crate::BlobError;
use crate::log::is_name;

/// Where blobs lie in a data directory.
const FOLDER: &str = "blobs";

impl Store {
    /// The file of a blob. Names have no slashes, and no file of another name ends like one that is being written.
    fn blob_path(&self, name: &str) -> Result<PathBuf, BlobError> {
        let file = format!("{name}.blob");
        if is_name(name) { Ok(self.data_dir.join(FOLDER).join(file)) } else { Err(BlobError::InvalidName) }
    }

    pub(crate) async fn put_blob(&self, name: &str, blob: Bytes) -> Result<(), BlobError> {
        let path = self.blob_path(name)?;
        blocking(move || put(&path, &blob)).await
    }

    pub(crate) async fn get_blob(&self, name: &str) -> Result<Option<Bytes>, BlobError> {
        let path = self.blob_path(name)?;
        blocking(move || absent(fs::read(path)).map(|found| found.map(Bytes::from))).await
    }

    pub(crate) async fn delete_blob(&self, name: &str) -> Result<(), BlobError> {
        let path = self.blob_path(name)?;
        blocking(move || absent(fs::remove_file(path)).map(drop)).await
    }
}

fn put(path: &Path, blob: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    let unfinished = path.with_extension("tmp");
    let mut file = File::create(&unfinished)?;
    file.write_all(blob)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(folder)?.sync_all()
}

fn absent<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, BlobError> {
    let outcome = tokio::task::spawn_blocking(work).await;
    outcome
        .map_err(|panic| BlobError::Unavailable(panic.to_string()))?
        .map_err(|error| BlobError::Unavailable(error.to_string()))
}
