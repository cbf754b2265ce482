//! Blobs: an object store bucket. The client checks each blob's digest when it is read.

use std::time::Duration;

use async_nats::jetstream::object_store::{DeleteErrorKind, GetErrorKind, ObjectStore};
use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::{Client, blobs_bucket};
use crate::BlobError;
use crate::log::is_name;

/// How long the next piece of a blob may take.
const PIECE_WAIT: Duration = Duration::from_secs(10);

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
        let mut object = match self.blobs(name).await?.get(name).await {
            Ok(object) => object,
            Err(error) if error.kind() == GetErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unavailable(&error)),
        };
        let size = object.info().size;
        let mut blob = BytesMut::with_capacity(size);
        // Its pieces come one by one, and stop coming without a word when they are written anew meanwhile, or when the replica
        // that reads them out is lost.
        loop {
            match timeout(PIECE_WAIT, object.read_buf(&mut blob)).await {
                Ok(Ok(0)) => return Ok(Some(blob.freeze())),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(unavailable(&error)),
                Err(_elapsed) => {
                    return Err(BlobError::Unavailable(format!("{} of {size} bytes came, and no more", blob.len())));
                }
            }
        }
    }

    pub(crate) async fn delete_blob(&self, name: &str) -> Result<(), BlobError> {
        match self.blobs(name).await?.delete(name).await {
            Err(error) if error.kind() != DeleteErrorKind::NotFound => Err(unavailable(&error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn unavailable(error: &dyn std::fmt::Display) -> BlobError {
    BlobError::Unavailable(error.to_string())
}
