//! The bytes of a request, within their bounds of size and time.

use std::io::Read as _;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::EXPECT;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use crate::answer::{Code, Refusal};
use crate::request;

/// How long a body may take, from the first byte to the last.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What is read of a body that is refused before it is taken in.
const LINGER_BYTES_MAX: usize = 8 * 1024 * 1024;
const LINGER_IDLE: Duration = Duration::from_millis(50);
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// A body whose announced length is within `bytes_max`, and how many bytes it may come to. One of a greater length is refused
/// before it is taken in.
pub(crate) async fn expected(
    headers: &HeaderMap,
    body: Body,
    gzip: bool,
    bytes_max: usize,
) -> Result<(usize, Body), Refusal> {
    match request::announced_bytes(headers, bytes_max) {
        // What is announced of a compressed body says nothing of what it unpacks to.
        Ok(announced) => Ok((announced.filter(|_| !gzip).unwrap_or(bytes_max), body)),
        Err(refusal) => Err(refuse(headers, body, refusal).await),
    }
}

/// Refuses a body that is not read, so that its sender gets to read why.
pub(crate) async fn refuse(headers: &HeaderMap, body: Body, refusal: Refusal) -> Refusal {
    // Who waits for leave to send has sent nothing.
    if !headers.contains_key(EXPECT) {
        linger(body).await;
    }
    refusal
}

/// Reads a body of at most `bytes_max` bytes.
pub(crate) async fn read(body: Body, bytes_max: usize) -> Result<Bytes, Refusal> {
    let collect = Limited::new(body, bytes_max).collect();
    match tokio::time::timeout(BODY_TIMEOUT, collect).await {
        Err(_elapsed) => Err(Refusal::new(Code::RequestTimeout, "the body did not arrive in 30 seconds")),
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(bytes_max)),
        Ok(Err(_)) => Err(Refusal::new(Code::BodyCut, "the body ended early or was framed wrongly")),
    }
}

/// Reads on for a moment after a refusal, so that a sender that is still writing gets to read the answer: closing on
/// unread bytes resets the connection, and the answer with it.
async fn linger(body: Body) {
    let (mut left, mut body) = (LINGER_BYTES_MAX, body.into_data_stream());
    let read = async {
        // Who sends nothing more is waiting for the answer.
        while left > 0
            && let Ok(Some(Ok(chunk))) = tokio::time::timeout(LINGER_IDLE, body.next()).await
        {
            left = left.saturating_sub(chunk.len());
        }
    };
    let _in_time = tokio::time::timeout(LINGER_TIMEOUT, read).await;
}

pub(crate) fn too_large(bytes_max: usize) -> Refusal {
    Refusal::new(Code::BodyTooLarge, format!("the body is larger than {bytes_max} bytes"))
}

/// Unpacks one gzip member that fills the body exactly and gives at most `bytes_max` bytes. Stops at the limit: a bomb
/// costs no more than an honest body.
pub(crate) fn gunzip(body: &[u8], bytes_max: usize) -> Result<Bytes, Refusal> {
    let bad = || Refusal::new(Code::BadGzip, "the body is not one whole gzip stream");
    let mut decoder = flate2::bufread::GzDecoder::new(body);
    let mut unpacked = Vec::with_capacity(body.len().saturating_mul(4).min(bytes_max));
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX) + 1;
    decoder.by_ref().take(limit).read_to_end(&mut unpacked).map_err(|_corrupt| bad())?;
    if unpacked.len() > bytes_max {
        let message = format!("the body is larger than {bytes_max} bytes when unpacked");
        return Err(Refusal::new(Code::DecompressedTooLarge, message));
    }
    if body.is_empty() || !decoder.into_inner().is_empty() {
        return Err(bad());
    }
    Ok(unpacked.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_is_read_strictly() {
        let good = gzip(b"hello");
        assert_eq!(gunzip(&good, 5).unwrap(), &b"hello"[..]);
        let code = |body: &[u8]| gunzip(body, 5).unwrap_err().code;
        assert_eq!(code(&gzip(b"hello!")), Code::DecompressedTooLarge);
        assert_eq!(code(&gzip(&vec![0; 1 << 24])), Code::DecompressedTooLarge);
        assert_eq!(code(&good[..good.len() - 1]), Code::BadGzip);
        assert_eq!(code(&[&good[..], b"x"].concat()), Code::BadGzip);
        assert_eq!(code(&[&good[..], &good[..]].concat()), Code::BadGzip);
        assert_eq!(code(&good[..10]), Code::BadGzip);
        assert_eq!(code(b""), Code::BadGzip);
        assert_eq!(code(b"{\"a\":1}"), Code::BadGzip);
        let mut wrong = good.clone();
        let crc = wrong.len() - 8;
        wrong[crc] ^= 1;
        assert_eq!(code(&wrong), Code::BadGzip);
    }
}
