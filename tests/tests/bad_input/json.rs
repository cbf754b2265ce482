//! J1 to J13: JSON.

use serde_json::json;

use crate::row::{CANARY, Desk, Row};

/// Brackets of J5; one frame of the stack each would be too many.
const BRACKETS: usize = 100_000;

/// Keys of J12.
const KEYS: usize = 100_000;

pub(crate) fn rows(desk: &Desk) -> Vec<Row> {
    [texts(desk), bytes(desk), depths(desk), keys(desk), values(desk)].concat()
}

fn texts(desk: &Desk) -> Vec<Row> {
    let whole = |id: &str| desk.fact(false, id).value().to_string();
    let bad = |id: &str, body: String| Row::refused(id, &desk.post(body), 400, "bad_json");
    let no_object = |id: &str, body: String| Row::refused(id, &desk.post(body), 400, "not_an_object");
    let cut = whole("J2 cut");
    vec![
        bad("J1", String::new()),
        bad("J2 cut", cut.chars().take(cut.len() / 2).collect()),
        bad("J2 trailing", format!("{} x", whole("J2 trailing"))),
        bad("J2 second", format!("{0}{0}", whole("J2 second"))),
        bad("J4", format!("\u{feff}{}", whole("J4"))),
        no_object("J10 arrays", format!("[[{}]]", whole("J10 arrays"))),
        no_object("J10 string", format!("\"{CANARY}\"")),
        no_object("J10 null", "null".to_owned()),
        no_object("J10 null inside", "[null]".to_owned()),
        bad("J11 quotes", whole("J11 quotes").replace('"', "'")),
        bad("J11 comment", format!("/* {CANARY} */{}", whole("J11 comment"))),
        bad("J11 comma", format!("[{},]", whole("J11 comma"))),
        bad("J11 comma inside", whole("J11 comma inside").replacen('{', "{,", 1)),
    ]
}

fn bytes(desk: &Desk) -> Vec<Row> {
    let bad = |id: &str, bytes: &[u8]| {
        let text = desk.fact(false, id).with("campaign_name", "HERE").value().to_string();
        let (before, after) = text.split_once("HERE").expect("the mark is in the text");
        let body = [before.as_bytes(), bytes, after.as_bytes()].concat();
        Row::refused(id, &desk.post(body), 400, "bad_utf8")
    };
    vec![
        bad("J3 invalid", b"\xff\xfe"),
        bad("J3 overlong", b"\xc0\x80"),
        bad("J3 surrogate", b"\xed\xa0\x80"),
        bad("J3 cut", b"\xe2\x82"),
        bad("J9 high", br"\ud800"),
        bad("J9 low", br"\udc00x"),
    ]
}

fn depths(desk: &Desk) -> Vec<Row> {
    // The event and its properties are the first two levels.
    let nested = |good: bool, id: &str, depth: usize| {
        let inner = depth - 2;
        let deep = format!("{}1{}", "{\"a\":".repeat(inner), "}".repeat(inner));
        let text = desk.fact(good, id).with("properties", json!({ "x": "HERE" })).value().to_string();
        desk.post(text.replacen("\"HERE\"", &deep, 1))
    };
    vec![
        Row::taken("J5 16", &nested(true, "J5 16", 16), 1),
        Row::refused("J5 17", &nested(false, "J5 17", 17), 400, "too_deep"),
        Row::refused("J5 brackets", &desk.post("[".repeat(BRACKETS)), 400, "too_deep"),
        Row::refused("J5 braces", &desk.post("{\"a\":".repeat(BRACKETS)), 400, "too_deep"),
    ]
}

fn keys(desk: &Desk) -> Vec<Row> {
    let twice = |id: &str, second: &str| {
        let to = format!("\"user_id\":\"a\",{second}:\"b\",\"person_id\"");
        Row::refused(id, &desk.mangled(id, "\"person_id\"", &to), 400, "duplicate_key")
    };
    let many: Vec<String> = (0..KEYS).map(|number| format!("\"{number:x}\":0")).collect();
    let many = desk.fact(false, "J12").with("properties", "HERE").value().to_string().replacen(
        "\"HERE\"",
        &format!("{{{}}}", many.join(",")),
        1,
    );
    let plain = json!({ "__proto__": { "admin": true }, "constructor": { "prototype": 1 } });
    vec![
        twice("J6", "\"user_id\""),
        twice("J6 escaped", "\"\\u0075ser_id\""),
        Row::refused("J12", &desk.post(many), 422, "too_many_fields"),
        Row::taken("J13", &desk.post_one(&desk.fact(true, "J13").with("properties", plain)), 1),
    ]
}

fn values(desk: &Desk) -> Vec<Row> {
    let number = |id: &str, text: &str| {
        let body = desk.fact(false, id).with("timestamp", "HERE").value().to_string().replacen("\"HERE\"", text, 1);
        Row::refused(id, &desk.post(body), 400, "bad_number")
    };
    let id = desk.fact(false, "J8").with("id", "HERE").value().to_string();
    vec![
        number("J7 NaN", "NaN"),
        number("J7 infinity", "Infinity"),
        number("J7 too large", "1e999"),
        number("J7 minus zero", "-0"),
        number("J7 long", &"9".repeat(400)),
        Row::refused("J8", &desk.post(id.replacen("\"HERE\"", "9007199254740993", 1)), 422, "bad_type"),
    ]
}
