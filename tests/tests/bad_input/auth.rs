//! A1 to A9: who is asking. (A4 has a test of its own: it needs a key that is taken back.)

use crate::row::{Desk, Row};

/// Bytes of the oversized key of A8.
const KEY_BYTES: usize = 64 * 1024;

pub(crate) fn rows(desk: &Desk) -> Vec<Row> {
    let sound = |id: &str| desk.post_one(&desk.fact(false, id));
    let bare = |id: &str| sound(id).without("Authorization");
    let with = |id: &str, value: &str| bare(id).header("Authorization", value);
    let in_query = bare("A6").path(&format!("/v1/events?key={}", desk.key));
    let foreign = desk.fact(false, "A7").with("connection", desk.other_connection.as_str());
    let own = desk.fact(true, "A7 own").with("connection", desk.own_connection.as_str());
    vec![
        Row::refused("A1", &bare("A1"), 401, "auth_missing"),
        Row::refused("A2", &with("A2", "Digest username=\"a\""), 401, "auth_scheme"),
        Row::refused("A3", &with("A3", "Bearer ik_unknown_0000000000000000"), 401, "auth_invalid"),
        Row::refused("A3 again", &with("A3 again", "Bearer ik_acme_0000000000000000"), 401, "auth_invalid"),
        Row::refused("A5", &sound("A5").bearer(&desk.key), 400, "bad_header"),
        Row::refused("A6", &in_query, 401, "auth_missing"),
        Row::refused("A7", &desk.post_one(&foreign), 403, "connection_forbidden"),
        Row::taken("A7 own", &desk.post_one(&own), 1),
        Row::unframed(
            "A8",
            with("A8", &format!("Bearer {}", "k".repeat(KEY_BYTES))).encode(),
            431,
            "headers_too_large",
        ),
        Row::unframed("A9 NUL", with("A9 NUL", "Bearer ik\0key").encode(), 400, "bad_header"),
        Row::refused("A9 non-ASCII", &with("A9 non-ASCII", "Bearer ik\u{e9}key"), 400, "bad_header"),
    ]
}
