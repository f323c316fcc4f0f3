//! What a JSON body has to be, by a JSON Schema in a file: draft 2020-12, or the one that its `$schema` names.

use crate::config::json;
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::FilePath;
use crate::types::Flaw;
use jsonschema::{PatternOptions, ValidationError, Validator};
use std::fmt;
use std::fs;

/// So many flaws of a body are told.
const FLAWS_MAX: usize = 10;
/// Characters of each; names of the client's own members may stand in it.
const DETAIL_CHARS_MAX: usize = 200;
const POINTER_CHARS_MAX: usize = 200;

/// A compiled schema.
pub struct Schema(Validator);

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Schema")
    }
}

impl Schema {
    /// `None` means that a problem was reported.
    pub fn read(path: &FilePath, at: &At<'_>, problems: &Problems) -> Option<Schema> {
        let text = fs::read(&path.0).map_err(|e| format!("can't read `{}`: {e}", path.0));
        let schema = text.and_then(|text| Schema::parse(&text).map_err(|e| format!("`{}`: {e}", path.0)));
        problems.ok(schema, at, "no body could be compared with it", "write a JSON Schema (draft 2020-12) into the file")
    }

    /// Nothing is fetched: what it refers to has to stand in it.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &[u8]) -> Result<Schema, String> {
        let schema = json::value(text).ok_or("it is not JSON, or has a name twice")?;
        // An engine that takes linear time: clients choose the texts.
        let options = jsonschema::options().with_pattern_options(PatternOptions::regex());
        options.build(&schema).map(Schema).map_err(|e| format!("{e}, at {}", pointer(&e)))
    }

    /// # Errors
    /// What is wrong with a body; nothing when it is no JSON, is nested beyond all reason, or has a name twice: two readers of it could
    /// each believe another one.
    pub fn check(&self, body: &[u8]) -> Result<(), Vec<Flaw>> {
        let value = json::value(body).ok_or_else(Vec::new)?;
        let flaws: Vec<Flaw> = self.0.iter_errors(&value).take(FLAWS_MAX).map(|e| flaw(&e)).collect();
        if flaws.is_empty() { Ok(()) } else { Err(flaws) }
    }
}

/// Without what the body itself says: a log would keep it.
fn flaw(e: &ValidationError<'_>) -> Flaw {
    let detail = e.masked().to_string().chars().take(DETAIL_CHARS_MAX).collect();
    Flaw { detail, pointer: pointer(e).chars().take(POINTER_CHARS_MAX).collect() }
}

fn pointer(e: &ValidationError<'_>) -> String {
    format!("#{}", e.instance_path())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flaws(schema: &str, body: &str) -> Vec<(String, String)> {
        let schema = Schema::parse(schema.as_bytes()).expect("a schema");
        let flaws = schema.check(body.as_bytes()).err().unwrap_or_default();
        flaws.into_iter().map(|flaw| (flaw.pointer, flaw.detail)).collect()
    }

    #[test]
    fn flaws_have_a_place_and_show_nothing_of_the_body() {
        let schema = r#"{ "type": "object", "required": ["id"], "properties": {
            "items": { "type": "array", "items": { "properties": { "qty": { "type": "integer", "minimum": 1 } } } },
            "mail": { "type": "string", "pattern": "^[^@]+@[^@]+$" } } }"#;
        assert_eq!(flaws(schema, r#"{"id":1,"items":[{"qty":2}],"mail":"a@b"}"#), []);
        let found = flaws(schema, r#"{"items":[{"qty":2},{"qty":0},{"qty":"hunter2"}],"mail":"hunter2"}"#);
        let places: Vec<&str> = found.iter().map(|(pointer, _)| &**pointer).collect();
        assert_eq!(places.len(), 4, "{found:?}");
        assert!(["#", "#/items/1/qty", "#/items/2/qty", "#/mail"].iter().all(|place| places.contains(place)), "{found:?}");
        assert!(found.iter().all(|(_, detail)| !detail.contains("hunter2")), "{found:?}");
    }

    #[test]
    fn what_is_no_json_or_has_a_name_twice_has_no_place() {
        let schema = Schema::parse(b"true").expect("a schema");
        for body in ["", "{", r#"{"a":1,"a":2}"#, r#"{"a":[{"b":1,"\u0062":2}]}"#] {
            assert_eq!(schema.check(body.as_bytes()), Err(Vec::new()), "{body}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(schema.check(deep.as_bytes()), Err(Vec::new()), "refused, and the stack is whole");
    }

    #[test]
    fn flaws_are_few_and_short() {
        let long = "x".repeat(10_000);
        let found = flaws(r#"{ "additionalProperties": false }"#, &format!(r#"{{"{long}":1}}"#));
        assert!(found.len() == 1 && found[0].1.len() <= DETAIL_CHARS_MAX, "{found:?}");
        let found = flaws(r#"{ "items": { "type": "string" } }"#, &format!("[{}]", vec!["1"; 1_000].join(",")));
        assert_eq!(found.len(), FLAWS_MAX);
    }

    #[test]
    fn a_schema_that_is_none_says_why() {
        for (schema, said) in [
            ("{", "it is not JSON"),
            (r#"{ "type": "objekt" }"#, "#/type"),
            (r#"{ "$ref": "https://example.com/other.json" }"#, "other.json"),
            (r##"{ "$ref": "#/$defs/none" }"##, "none"),
            (r#"{ "pattern": "(" }"#, "#/pattern"),
            (r#"{ "pattern": "(?=a)" }"#, "#/pattern"),
        ] {
            let e = Schema::parse(schema.as_bytes()).expect_err(schema);
            assert!(e.contains(said), "{schema}: {e}");
        }
    }

    #[test]
    fn a_schema_may_refer_to_itself() {
        let tree = r##"{ "properties": { "children": { "items": { "$ref": "#" } }, "n": { "type": "integer" } } }"##;
        assert_eq!(flaws(tree, r#"{"n":1,"children":[{"children":[{"n":"x"}]}]}"#)[0].0, "#/children/0/children/0/n");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let schema = Schema::parse(br#"{ "type": "object", "additionalProperties": { "type": "integer" } }"#).expect("a schema");
            if schema.check(&body).is_ok() {
                let value: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
                prop_assert!(value.as_object().is_some_and(|members| members.values().all(|value| value.is_number())));
            }
        }
    }
}
