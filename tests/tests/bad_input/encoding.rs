//! Z1 to Z5: gzip.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use inflection_tests::http::{Request, gzip};

use crate::row::{Desk, Row};

/// What the bomb of Z1 unpacks to; packed it stays below the limit of a body.
const BOMB_BYTES: usize = 900 * 1024 * 1024;

pub(crate) fn rows(desk: &Desk) -> Vec<Row> {
    let packed = |id: &str| gzip(desk.fact(false, id).value().to_string().as_bytes());
    let post = |body: Vec<u8>| desk.post(body).header("Content-Encoding", "gzip");
    let bad = |id: &str, body: Vec<u8>| Row::refused(id, &post(body), 400, "bad_gzip");

    let whole = packed("Z2 cut");
    let cut = whole[..whole.len() - 12].to_vec();
    let mut wrong_sum = packed("Z2 sum");
    let sum = wrong_sum.len() - 8;
    wrong_sum[sum] ^= 1;
    let trailing = [packed("Z3 trailing"), b"more".to_vec()].concat();
    let second = [packed("Z3 second"), gzip(b" ")].concat();
    let good = post(gzip(desk.fact(true, "Z0").value().to_string().as_bytes()));
    vec![
        Row::taken("Z0", &good, 1),
        bomb(&post(Vec::new())),
        bad("Z2 cut", cut),
        bad("Z2 sum", wrong_sum),
        bad("Z3 trailing", trailing),
        bad("Z3 second", second),
        bad("Z4", Vec::new()),
        bad("Z4 header only", whole[..10].to_vec()),
        bad("Z5", desk.fact(false, "Z5").value().to_string().into_bytes()),
    ]
}

/// Z1: blanks, which JSON allows without end.
fn bomb(request: &Request) -> Row {
    let blanks = vec![b' '; 1024 * 1024];
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(b"[").expect("memory takes bytes");
    for _ in 0..BOMB_BYTES / blanks.len() {
        encoder.write_all(&blanks).expect("memory takes bytes");
    }
    let packed = encoder.finish().expect("memory takes bytes");
    assert!(packed.len() < 1024 * 1024, "packed, the bomb has {} bytes", packed.len());
    Row::refused("Z1", &request.clone().body(packed), 413, "decompressed_too_large")
}
