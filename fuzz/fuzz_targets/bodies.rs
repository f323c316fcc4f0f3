//! Whatever a body is, in whatever coding: it is read within its bound, and looked at by a schema without a panic.
#![no_main]

use frontdesk::shape::decode::Coded;
use frontdesk::shape::schema::Schema;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let text = br##"{ "type": "object", "required": ["a"], "additionalProperties": false, "properties": {
        "a": { "type": "string", "pattern": "^(x+)+y$" }, "b": { "items": { "$ref": "#" }, "uniqueItems": true }, "c": { "multipleOf": 0.1 } } }"##;
    Schema::parse(text).expect("a schema")
});

fuzz_target!(|bytes: &[u8]| {
    let Some((first, body)) = bytes.split_first() else { return };
    let bytes_max = u64::from(*first) * 16;
    for coded in [Coded::Gzip, Coded::Deflate, Coded::Brotli, Coded::Zstd] {
        if let Ok(out) = coded.decode(body, bytes_max) {
            assert!(out.len() as u64 <= bytes_max);
        }
    }
    if let Err(flaws) = SCHEMA.check(body) {
        assert!(flaws.len() <= 10 && flaws.iter().all(|flaw| flaw.pointer.starts_with('#')));
    }
});
