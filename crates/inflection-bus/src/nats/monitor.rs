//! What only the server's monitoring port tells: whether it syncs every write before it acknowledges.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The whole exchange.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Asks `/jsz` of a monitoring address (`http://host:port`) for its `sync_always`. One request, by hand: the answer is one
/// word, and an HTTP client would be the largest dependency of this crate.
pub(super) async fn syncs_always(url: &str) -> io::Result<bool> {
    let address = url.trim_end_matches('/').strip_prefix("http://").unwrap_or(url);
    let answer = tokio::time::timeout(TIMEOUT, ask(address)).await.map_err(io::Error::other)??;
    let words: String = answer.split_whitespace().collect();
    match (words.contains("\"sync_always\":true"), words.contains("\"config\":{")) {
        (true, _) => Ok(true),
        (false, true) => Ok(false),
        (false, false) => Err(io::Error::other(format!("{url} is no monitoring address of a server with JetStream"))),
    }
}

async fn ask(address: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /jsz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await?;
    Ok(answer)
}
