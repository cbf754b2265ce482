//! H11, H12, H15 and H17: clients that take their time, or never end, or only hang about.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use inflection_tests::announce::announce;
use inflection_tests::http::{Answer, Connection, is_closed};
use inflection_tests::process::raise_open_files_max;

use crate::row::Desk;

/// The time a client has for its headers, and what a busy machine may add.
const HEADERS_WAIT: Duration = Duration::from_secs(10 + 5);

/// The time a client has for a whole request, and what a busy machine may add.
const REQUEST_WAIT: Duration = Duration::from_secs(30 + 5);

/// Between two bytes of a slow client.
const PACE: Duration = Duration::from_secs(1);

/// What an endless client sends at most: far beyond any limit.
const ENDLESS_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Idle connections of H17.
const IDLE: usize = 10_000;

/// Files this test needs beside its idle connections.
const OTHER_FILES: u64 = 256;

/// Runs the slow rows side by side.
pub(crate) fn check(ingest: SocketAddr, desk: &Desk) {
    thread::scope(|scope| {
        scope.spawn(|| slow_headers(ingest, desk));
        scope.spawn(|| slow_body(ingest, desk));
        scope.spawn(|| endless_body(ingest, desk));
    });
}

/// H11
fn slow_headers(ingest: SocketAddr, desk: &Desk) {
    let bytes = desk.post_one(&desk.fact(false, "H11")).encode();
    let (ended, took) = drip(ingest, &[], &bytes, HEADERS_WAIT);
    match ended {
        Ended::Answered(answer) => assert_eq!(answer.status, 408, "H11: {}", answer.text()),
        Ended::Closed => {}
        Ended::Open => panic!("H11: still open after {took:?}"),
    }
}

/// H12
fn slow_body(ingest: SocketAddr, desk: &Desk) {
    let bytes = desk.post_one(&desk.fact(false, "H12")).encode();
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head ends") + 4;
    let (ended, took) = drip(ingest, &bytes[..head], &bytes[head..], REQUEST_WAIT);
    match ended {
        Ended::Answered(answer) => {
            assert_eq!(answer.status, 408, "H12: {}", answer.text());
            assert_eq!(answer.error_code().as_deref(), Some("request_timeout"), "H12: {}", answer.text());
        }
        Ended::Closed => panic!("H12: closed without an answer after {took:?}"),
        Ended::Open => panic!("H12: still open after {took:?}"),
    }
}

/// How a slow conversation ended.
enum Ended {
    Answered(Answer),
    Closed,
    Open,
}

/// Sends `start` at once and the rest one byte a second, until there is an answer or `limit` is over.
fn drip(ingest: SocketAddr, start: &[u8], rest: &[u8], limit: Duration) -> (Ended, Duration) {
    let began = Instant::now();
    let mut connection = Connection::open(ingest, PACE).expect("a connection");
    connection.send(start).expect("the start is taken");
    for byte in rest {
        if began.elapsed() > limit || connection.send(&[*byte]).is_err() {
            break;
        }
        // Waiting a second for an answer is what paces the bytes.
        match connection.receive(false) {
            Ok(answer) => return (Ended::Answered(answer), began.elapsed()),
            Err(error) if is_closed(&error) => return (Ended::Closed, began.elapsed()),
            Err(_) => {}
        }
    }
    match connection.receive(false) {
        Ok(answer) => (Ended::Answered(answer), began.elapsed()),
        Err(error) if is_closed(&error) => (Ended::Closed, began.elapsed()),
        Err(_) => (Ended::Open, began.elapsed()),
    }
}

/// H15
fn endless_body(ingest: SocketAddr, desk: &Desk) {
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
        desk.key
    );
    let mut connection = Connection::open(ingest, REQUEST_WAIT).expect("a connection");
    let writer = connection.writer().expect("a second hand");
    thread::scope(|scope| {
        let sent = scope.spawn(move || pour(writer, &head));
        let answer = connection.receive(false).expect("H15: an answer before the end that never comes");
        assert_eq!(answer.status, 413, "H15: {}", answer.text());
        assert_eq!(answer.error_code().as_deref(), Some("body_too_large"), "H15: {}", answer.text());
        assert!(connection.closes_within(REQUEST_WAIT), "H15: left open");
        let sent = sent.join().expect("the writer ends");
        assert!(sent.is_err(), "H15: {ENDLESS_BYTES_MAX} bytes were read");
    });
}

fn pour(mut writer: TcpStream, head: &str) -> io::Result<()> {
    writer.write_all(head.as_bytes())?;
    let chunk = format!("2000\r\n{}\r\n", " ".repeat(0x2000));
    for _ in 0..ENDLESS_BYTES_MAX / chunk.len() {
        writer.write_all(chunk.as_bytes())?;
    }
    Ok(())
}

/// H17: opens idle connections; they live as long as the answer is held.
pub(crate) fn idle_connections(ingest: SocketAddr) -> Vec<TcpStream> {
    let files = raise_open_files_max().saturating_sub(OTHER_FILES);
    let count = usize::try_from(files).unwrap_or(usize::MAX).min(IDLE);
    if count < IDLE {
        announce(&format!("H17: only {count} idle connections: the hard limit of open files allows no more"));
    }
    (0..count).map(|number| TcpStream::connect(ingest).unwrap_or_else(|e| panic!("idle {number}: {e}"))).collect()
}
