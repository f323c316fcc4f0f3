//! Whatever a body is, it is changed or refused: what comes out is JSON, and nothing that was to be removed is in it.
#![no_main]

use frontdesk::config::place::At;
use frontdesk::config::problem::Problems;
use frontdesk::config::raw::JsonChanges;
use frontdesk::config::shape::Named;
use frontdesk::shape::body::JsonEdits;
use frontdesk::shape::json;
use frontdesk::shape::path::Path;
use frontdesk::shape::template::{Names, Value, Values, Variable};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

struct Nobody;
impl Values for Nobody {
    fn value(&self, _: &Variable) -> Value<'_> {
        Value::Plain("x".into())
    }
}

fn edits(changes: JsonChanges) -> JsonEdits {
    JsonEdits::build(&changes, Names::default(), &At::root(), &Problems::default()).expect("changes")
}

static REMOVE: LazyLock<JsonEdits> = LazyLock::new(|| edits(JsonChanges { remove: vec!["a".into()], ..Default::default() }));
static ALL: LazyLock<JsonEdits> = LazyLock::new(|| {
    let named = |from: &str, to: &str| Named(vec![(from.to_string(), to.to_string())]);
    edits(JsonChanges {
        keep: Some(vec!["a".into(), "b.c".into()]),
        remove: vec!["a.b".into()],
        rename: named("b.c", "d"),
        moved: named("b.d", "a.e"),
        ..Default::default()
    })
});

fuzz_target!(|bytes: &[u8]| {
    // The first line is a path.
    let (path, body) = bytes.split_at(bytes.iter().position(|b| *b == b'\n').unwrap_or(0));
    if let Some(path) = std::str::from_utf8(path).ok().and_then(|path| Path::parse(path).ok()) {
        if let Some(found) = json::find(body, path.steps()) {
            assert!(json::is_json(found.as_bytes()), "{found}");
        }
    }
    if let Ok(out) = ALL.apply(body, &Nobody) {
        assert!(json::is_json(&out) && out.len() <= 8 * body.len() + (5 << 20), "what came, the escapes of names, and what may be put in");
    }
    if let Ok(out) = REMOVE.apply(body, &Nobody) {
        let left: serde_json::Result<serde_json::Value> = serde_json::from_slice(&out);
        assert!(left.map_or(true, |left| left.get("a").is_none()));
    }
});
