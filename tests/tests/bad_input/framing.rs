//! H1 to H20: HTTP itself. (H11, H12, H15 and H17 are in [`crate::slow`]; H18 is about HTTP/2.)

use inflection_tests::http::Request;

use crate::row::{Desk, Expect, Row};

/// Bytes of the chunk extension of H9.
const EXTENSION_BYTES: usize = 1024 * 1024;

pub(crate) fn rows(desk: &Desk) -> Vec<Row> {
    [addresses(desk), media(desk), lengths(desk), chunks(desk), lines(desk), unfinished(desk)].concat()
}

fn sound(desk: &Desk, id: &str) -> Request {
    desk.post_one(&desk.fact(false, id))
}

fn addresses(desk: &Desk) -> Vec<Row> {
    let method = |id: &str, name: &str| {
        Row::refused(id, &sound(desk, id).method(name), 405, "method_not_allowed").with_header("allow", "POST")
    };
    let path = |id: &str, path: &str| Row::refused(id, &sound(desk, id).path(path), 404, "not_found");
    vec![
        method("H1 GET", "GET"),
        method("H1 PUT", "PUT"),
        method("H1 DELETE", "DELETE"),
        path("H2 unknown", "/v1/nothing"),
        path("H2 slashes", "//v1/events"),
        path("H2 dots", "/v1/events/..%2f"),
    ]
}

fn media(desk: &Desk) -> Vec<Row> {
    let kind = |id: &str, value: &str| sound(desk, id).with("Content-Type", value);
    let coded = |id: &str, value: &str| {
        Row::refused(id, &sound(desk, id).header("Content-Encoding", value), 415, "unsupported_encoding")
    };
    vec![
        Row::refused("H3 none", &sound(desk, "H3 none").without("Content-Type"), 415, "unsupported_media_type"),
        Row::refused("H3 text", &kind("H3 text", "text/plain"), 415, "unsupported_media_type"),
        Row::refused("H4", &kind("H4", "application/json; charset=utf-16"), 415, "unsupported_charset"),
        coded("H5 br", "br"),
        coded("H5 twice", "gzip,gzip"),
        coded("H5 unknown", "unheard-of"),
    ]
}

/// A request line and headers as given, then a sound body.
fn raw(desk: &Desk, id: &str, headers: &str) -> Vec<u8> {
    let body = desk.fact(false, id).value().to_string();
    let headers = headers.replace("LENGTH", &body.len().to_string());
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n{headers}\r\n",
        desk.key
    );
    [head.into_bytes(), body.into_bytes()].concat()
}

fn lengths(desk: &Desk) -> Vec<Row> {
    let bad = |id: &str, headers: &str| {
        let headers = format!("Host: h\r\n{headers}");
        Row::unframed(id, raw(desk, id, &headers), 400, "bad_framing")
    };
    let huge = format!(
        "POST /v1/events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 10737418240\r\n\r\n",
        desk.key
    );
    let pipelined = [
        raw(desk, "H20", "Host: h\r\nContent-Length: LENGTH\r\nContent-Length: 1\r\n"),
        sound(desk, "H20 second").encode(),
    ];
    vec![
        bad("H6 length first", "Content-Length: LENGTH\r\nTransfer-Encoding: chunked\r\n"),
        bad("H6 coding first", "Transfer-Encoding: chunked\r\nContent-Length: LENGTH\r\n"),
        bad("H7", "Content-Length: LENGTH\r\nContent-Length: 5\r\n"),
        bad("H8 space", "Transfer-Encoding : chunked\r\n"),
        bad("H8 xchunked", "Transfer-Encoding: xchunked\r\n"),
        bad("H8 identity", "Transfer-Encoding: identity, chunked\r\n"),
        Row::refused_bytes("H14", huge.into_bytes(), 413, "body_too_large"),
        Row::unframed("H20", pipelined.concat(), 400, "bad_framing"),
    ]
}

fn chunks(desk: &Desk) -> Vec<Row> {
    let bad = |id: &str, size: &str| {
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Transfer-Encoding: chunked\r\n\r\n{size}\r\n",
            desk.key
        );
        let body = desk.fact(false, id).value().to_string();
        Row::unframed(id, format!("{head}{body}\r\n0\r\n\r\n").into_bytes(), 400, "bad_framing")
    };
    vec![
        bad("H9 overflow", "ffffffffffffffffff"),
        bad("H9 negative", "-5"),
        bad("H9 no number", "zz"),
        bad("H9 extension", &format!("5;{}", "x".repeat(EXTENSION_BYTES))),
    ]
}

fn lines(desk: &Desk) -> Vec<Row> {
    let bare = String::from_utf8(raw(desk, "H10 LF", "Host: h\r\nContent-Length: LENGTH\r\n")).map(|text| {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        format!("{}\n\n{body}", head.replace("\r\n", "\n")).into_bytes()
    });
    let folded = raw(desk, "H10 fold", "Host: h\r\nX-Folded: a\r\n b\r\nContent-Length: LENGTH\r\n");
    let expecting = sound(desk, "H16").with("Authorization", "Bearer ik_wrong").header("Expect", "100-continue");
    vec![
        Row::unframed("H10 LF", bare.expect("a request is text"), 400, "bad_header"),
        Row::unframed("H10 fold", folded, 400, "bad_header"),
        Row::refused("H16", &expecting, 401, "auth_invalid"),
        Row::unframed("H19 none", raw(desk, "H19 none", "Content-Length: LENGTH\r\n"), 400, "bad_header")
            .open_or_closed(),
        Row::unframed(
            "H19 two",
            raw(desk, "H19 two", "Host: a\r\nHost: b\r\nContent-Length: LENGTH\r\n"),
            400,
            "bad_header",
        )
        .open_or_closed(),
    ]
}

fn unfinished(desk: &Desk) -> Vec<Row> {
    let whole = raw(desk, "H13", "Host: h\r\nContent-Length: LENGTH\r\n");
    let head = whole.windows(4).position(|window| window == b"\r\n\r\n").expect("a head ends");
    vec![Row::new("H13", whole[..head + 14].to_vec(), Expect::Nothing)]
}
