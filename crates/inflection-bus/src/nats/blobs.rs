//! Blobs: an object store bucket. The client checks each blob's digest when it is read.

use std::io::ErrorKind;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::jetstream::object_store::{DeleteErrorKind, GetErrorKind, Object, ObjectStore};
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::backoff::Backoff;
use super::client::ANSWER_WAIT;
use super::{Client, blobs_bucket, blobs_stream};
use crate::BlobError;
use crate::log::is_name;

/// How long the next piece of a blob may take.
const PIECE_WAIT: Duration = Duration::from_secs(10);
/// So often is one and the same blob read, while its leader answers, until it counts as damaged.
const READ_TRIES: u32 = 3;

impl Client {
    async fn blobs(&self, name: &str) -> Result<ObjectStore, BlobError> {
        if !is_name(name) {
            return Err(BlobError::InvalidName);
        }
        self.context.get_object_store(blobs_bucket()).await.map_err(|error| unavailable(&error))
    }

    pub(crate) async fn put_blob(&self, name: &str, blob: &[u8]) -> Result<(), BlobError> {
        let mut rest = blob;
        self.blobs(name).await?.put(name, &mut rest).await.map(drop).map_err(|error| unavailable(&error))
    }

    pub(crate) async fn get_blob(&self, name: &str) -> Result<Option<Bytes>, BlobError> {
        let bucket = self.blobs(name).await?;
        let (mut backoff, mut before, mut failures) = (Backoff::default(), String::new(), 0);
        loop {
            // The leader is asked.
            let object = match bucket.get(name).await {
                Ok(object) => object,
                Err(error) if error.kind() == GetErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(unavailable(&error)),
            };
            let id = object.info().nuid.clone();
            let why = match self.read_pieces(object).await? {
                Ok(blob) => return Ok(Some(blob)),
                Err(why) => why,
            };
            // One that is written anew while it is read has another id the next time.
            failures = if id == before { failures + 1 } else { 1 };
            before = id;
            if failures == READ_TRIES {
                return Err(BlobError::Damaged(why));
            }
            backoff.pause().await;
        }
    }

    /// Reads an object; says what is wrong when its pieces are not what it was made of, or do not come.
    async fn read_pieces(&self, mut object: Object) -> Result<Result<Bytes, String>, BlobError> {
        let (size, pieces) = (object.info().size, object.info().chunks);
        let subject = format!("{}{}", pieces_prefix(), object.info().nuid);
        let found = self.blob_subjects(&subject).await?.into_iter().map(|(_, count)| count).sum::<usize>();
        if found < pieces {
            return Ok(Err(format!("{found} of its {pieces} pieces are there")));
        }
        let mut blob = BytesMut::with_capacity(size);
        // Its pieces come one by one, and stop coming without a word when they are written anew meanwhile, or when the replica
        // that reads them out is lost.
        loop {
            match timeout(PIECE_WAIT, object.read_buf(&mut blob)).await {
                Ok(Ok(0)) => return Ok(Ok(blob.freeze())),
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.kind() == ErrorKind::InvalidData => return Ok(Err(error.to_string())),
                Ok(Err(error)) => return Err(unavailable(&error)),
                Err(_elapsed) => return Ok(Err(format!("{} of {size} bytes came, and no more", blob.len()))),
            }
        }
    }

    pub(crate) async fn delete_torn_blobs(&self, age: Duration) -> Result<usize, BlobError> {
        let (stream, pieces) = (blobs_stream(), pieces_prefix());
        let subjects = self.blob_subjects(&format!("$O.{}.>", blobs_bucket())).await?;
        // What blobs say of themselves is read after their pieces were listed: one that was finished meanwhile names its own.
        let mut named = String::new();
        for (subject, _) in subjects.iter().filter(|(subject, _)| !subject.starts_with(&pieces)) {
            let about = self.last_message(&stream, subject).await.map_err(BlobError::Unavailable)?;
            named.extend(about.map(|about| String::from_utf8_lossy(&about.payload).into_owned()));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut torn = 0;
        for (subject, _) in subjects {
            let Some(id) = subject.strip_prefix(&pieces) else { continue };
            if named.contains(id) {
                continue;
            }
            let newest = self.last_message(&stream, &subject).await.map_err(BlobError::Unavailable)?;
            let written = newest.and_then(|newest| u64::try_from(newest.time.unix_timestamp()).ok());
            if written.is_none_or(|written| now.saturating_sub(written) < age.as_secs()) {
                continue;
            }
            let stream = self.context.get_stream_no_info(&stream).await.map_err(|error| unavailable(&error))?;
            let purged = timeout(ANSWER_WAIT, stream.purge().filter(&subject)).await;
            purged.map_err(|elapsed| unavailable(&elapsed))?.map_err(|error| unavailable(&error))?;
            torn += 1;
        }
        Ok(torn)
    }

    /// The subjects of the bucket's stream that match a filter, and how many messages each has.
    async fn blob_subjects(&self, filter: &str) -> Result<Vec<(String, usize)>, BlobError> {
        let stream = self.context.get_stream_no_info(blobs_stream()).await.map_err(|error| unavailable(&error))?;
        let subjects = stream.info_with_subjects(filter).await.map_err(|error| unavailable(&error))?;
        subjects.try_collect().await.map_err(|error| unavailable(&error))
    }

    pub(crate) async fn delete_blob(&self, name: &str) -> Result<(), BlobError> {
        match self.blobs(name).await?.delete(name).await {
            Err(error) if error.kind() != DeleteErrorKind::NotFound => Err(unavailable(&error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// What the subjects of pieces begin with; the id of their blob follows.
fn pieces_prefix() -> String {
    format!("$O.{}.C.", blobs_bucket())
}

fn unavailable(error: &dyn std::fmt::Display) -> BlobError {
    BlobError::Unavailable(error.to_string())
}
