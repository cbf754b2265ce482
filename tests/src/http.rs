//! A small blocking HTTP/1.1 client that can also be made to send what no client would: the bytes are the caller's.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

/// A body as `Content-Encoding: gzip` says.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory takes bytes");
    encoder.finish().expect("memory takes bytes")
}

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// What a client waits for one answer unless told otherwise.
pub const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header lines in order; names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body, without chunk framing.
    pub body: Vec<u8>,
    /// Status codes of interim answers (1xx) that came before.
    pub interim: Vec<u16>,
}

impl Answer {
    /// The first header of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `Null` if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// `error.code` of the body.
    pub fn error_code(&self) -> Option<String> {
        self.json().pointer("/error/code").and_then(Value::as_str).map(str::to_owned)
    }
}

/// A request, built up; [`Request::encode`] gives its bytes.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A request without a body.
    pub fn new(method: &str, path: &str) -> Self {
        Self { method: method.to_owned(), path: path.to_owned(), headers: Vec::new(), body: Vec::new() }
    }

    /// `POST` of a JSON body.
    pub fn json(path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", path).header("Content-Type", "application/json").body(body)
    }

    /// Adds a header line.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes every header line of that name away.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(found, _)| !found.eq_ignore_ascii_case(name));
        self
    }

    /// Sets the one header line of that name.
    #[must_use]
    pub fn with(self, name: &str, value: &str) -> Self {
        self.without(name).header(name, value)
    }

    /// Adds `Authorization: Bearer`.
    #[must_use]
    pub fn bearer(self, key: &str) -> Self {
        self.header("Authorization", &format!("Bearer {key}"))
    }

    /// Adds `Authorization: Basic` with the key as user name and no password.
    #[must_use]
    pub fn basic(self, key: &str) -> Self {
        self.header("Authorization", &format!("Basic {}", STANDARD.encode(format!("{key}:"))))
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Replaces the method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    /// Replaces the path.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// The bytes: `Host` and `Content-Length` are added unless the request says otherwise itself.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.path).into_bytes();
        let mut line = |name: &str, value: &str| bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        if !self.has("host") {
            line("Host", "127.0.0.1");
        }
        if !self.has("content-length") && !self.has("transfer-encoding") {
            line("Content-Length", &self.body.len().to_string());
        }
        for (name, value) in &self.headers {
            line(name, value);
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(found, _)| found.eq_ignore_ascii_case(name))
    }

    fn is_head(&self) -> bool {
        self.method == "HEAD"
    }
}

/// A client that keeps one connection open and opens another when it has gone.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    wait: Duration,
    connection: Option<Connection>,
}

impl Client {
    /// A client for one address; it connects with the first request.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, wait: ANSWER_WAIT, connection: None }
    }

    /// Waits that long for an answer.
    #[must_use]
    pub fn patience(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    ///
    /// Whatever kept the answer from coming; whether the request was acted on is then unknown.
    pub fn call(&mut self, request: &Request) -> io::Result<Answer> {
        if let Some(mut kept) = self.connection.take() {
            match kept.exchange(request) {
                Ok(answer) => return Ok(self.keep(kept, answer)),
                // The other side may close an idle connection at any time: that is no answer to this request.
                Err(error) if kept.untouched && is_closed(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let mut fresh = Connection::open(self.address, self.wait)?;
        let answer = fresh.exchange(request)?;
        Ok(self.keep(fresh, answer))
    }

    fn keep(&mut self, connection: Connection, answer: Answer) -> Answer {
        let closes = answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        self.connection = (!closes).then_some(connection);
        answer
    }
}

/// One connection, byte by byte.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Nothing has been received since the last request.
    untouched: bool,
}

impl Connection {
    /// Connects; reads and writes give up after `wait`.
    ///
    /// # Errors
    ///
    /// When nobody listens.
    pub fn open(address: SocketAddr, wait: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, wait)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(wait))?;
        stream.set_write_timeout(Some(wait))?;
        Ok(Self { stream, buffer: Vec::new(), untouched: true })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// When the other side has closed, or does not read.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    ///
    /// When the connection is gone already.
    pub fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// A second hand on the same connection, for sending while another thread receives.
    ///
    /// # Errors
    ///
    /// When no file is left.
    pub fn writer(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// Reads one answer. `head` is for answers to `HEAD`, which have no body.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when the connection was closed before a whole answer; `InvalidData` when it is no HTTP.
    pub fn receive(&mut self, head: bool) -> io::Result<Answer> {
        let mut interim = Vec::new();
        loop {
            let (status, headers) = self.receive_head()?;
            if (100..200).contains(&status) {
                interim.push(status);
                continue;
            }
            let mut answer = Answer { status, headers, body: Vec::new(), interim };
            if !head && status != 204 && status != 304 {
                answer.body = self.receive_body(&answer)?;
            }
            return Ok(answer);
        }
    }

    /// Whether the other side closes within `limit`; what it still sends is thrown away.
    pub fn closes_within(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        self.buffer.clear();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
                return false;
            }
            match self.fill() {
                Ok(()) => self.buffer.clear(),
                Err(error) => return is_closed(&error),
            }
        }
    }

    fn exchange(&mut self, request: &Request) -> io::Result<Answer> {
        self.untouched = true;
        self.send(&request.encode())?;
        self.receive(request.is_head())
    }

    fn receive_head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            self.fill()?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| invalid("no status line"))?;
        let headers = lines.filter_map(|line| line.split_once(':'));
        Ok((status, headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect()))
    }

    fn receive_body(&mut self, answer: &Answer) -> io::Result<Vec<u8>> {
        if answer.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return self.receive_chunks();
        }
        if let Some(length) = answer.header("content-length") {
            let length = length.parse().map_err(|_no_number| invalid("content-length is no number"))?;
            return self.take(length);
        }
        loop {
            match self.fill() {
                Ok(()) => {}
                Err(error) if is_closed(&error) => return Ok(std::mem::take(&mut self.buffer)),
                Err(error) => return Err(error),
            }
        }
    }

    fn receive_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = find(&self.buffer, b"\r\n") {
                    break end;
                }
                self.fill()?;
            };
            let line = String::from_utf8_lossy(&self.take(end)?).into_owned();
            self.take(2)?;
            let size = line.split(';').next().unwrap_or_default().trim().to_owned();
            let size = usize::from_str_radix(&size, 16).map_err(|_no_number| invalid("chunk size is no number"))?;
            body.extend(self.take(size)?);
            self.take(2)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; READ_BYTES];
        let read = self.stream.read(&mut bytes)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.untouched = false;
        self.buffer.extend_from_slice(&bytes[..read]);
        Ok(())
    }
}

/// Whether an error means that the other side has closed, in whatever way.
pub fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
    )
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
