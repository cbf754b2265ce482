//! Blobs: an object store bucket. The client checks each blob's digest when it is read.

use async_nats::jetstream::object_store::{DeleteErrorKind, GetErrorKind, ObjectStore};
use bytes::Bytes;
use tokio::io::AsyncReadExt as _;

use super::{Client, blobs_bucket};
use crate::BlobError;
use crate::log::is_name;

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
        let mut blob = Vec::with_capacity(object.info().size);
        object.read_to_end(&mut blob).await.map_err(|error| unavailable(&error))?;
        Ok(Some(blob.into()))
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
