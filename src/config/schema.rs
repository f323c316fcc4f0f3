//! The JSON Schema (2020-12) of the configuration, made of the same declarations that read it.

use super::raw::Config;
use super::shape::Shape;
use serde_json::{Map, Value, json};

/// Parts that are described once and referred to, by name.
pub type Parts = Map<String, Value>;

/// Where a value is put in, whatever form is wanted may come.
const PUT_IN: &str = r"\$\{([A-Z]|file:)";

/// The schema of the whole file.
pub fn schema() -> Value {
    let mut parts = Parts::new();
    let _ = Config::schema(&mut parts);
    let mut whole = parts.remove("Config").unwrap_or_default();
    whole["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    whole["title"] = json!("Frontdesk");
    // Anchors stand there.
    whole["patternProperties"] = json!({ "^x-": true });
    whole["$defs"] = Value::Object(parts);
    whole
}

/// A text of a form, or one into which a value is put.
pub fn text(form: &str, example: &str) -> Value {
    json!({ "type": "string", "pattern": format!("{form}|{PUT_IN}"), "examples": [example] })
}

/// A value of a kind, or a text of a form that is one.
pub fn or_text(mut kind: Value, name: &str, form: &str) -> Value {
    kind["type"] = json!([name, "string"]);
    kind["pattern"] = json!(format!("{form}|{PUT_IN}"));
    kind
}

/// One of some words. Those that look like numbers are taken as such too.
pub fn words(words: &[&str]) -> Value {
    let numbers = words.iter().filter_map(|word| serde_json::from_str::<serde_json::Number>(word).ok()).map(Value::Number);
    let all: Vec<Value> = words.iter().map(|word| json!(word)).chain(numbers).collect();
    json!({ "anyOf": [{ "enum": all }, { "type": "string", "pattern": PUT_IN }] })
}

/// A map with keys of its own, as it is being described.
#[derive(Debug, Default)]
pub struct Fields {
    properties: Map<String, Value>,
    required: Vec<&'static str>,
}

impl Fields {
    /// One key; `default` is `None` for one that is required.
    pub fn add<T: Shape>(&mut self, parts: &mut Parts, key: &'static str, doc: &[&str], default: Option<T>) {
        let mut property = T::schema(parts);
        match &default {
            None => self.required.push(key),
            Some(value) => {
                if let Some(written) = value.written() {
                    property["default"] = written;
                }
            }
        }
        describe(&mut property, doc);
        self.properties.insert(key.to_string(), property);
    }

    fn finish(self, doc: &[&str]) -> Value {
        let mut object = json!({ "type": "object", "properties": self.properties, "additionalProperties": false });
        if !self.required.is_empty() {
            object["required"] = json!(self.required);
        }
        describe(&mut object, doc);
        object
    }
}

/// Describes a part, once, and answers a reference to it.
pub fn record(parts: &mut Parts, name: &str, doc: &[&str], fill: impl FnOnce(&mut Parts, &mut Fields)) -> Value {
    if !parts.contains_key(name) {
        // One that has itself within refers to itself.
        parts.insert(name.to_string(), Value::Null);
        let mut fields = Fields::default();
        fill(parts, &mut fields);
        parts.insert(name.to_string(), fields.finish(doc));
    }
    json!({ "$ref": format!("#/$defs/{name}") })
}

fn describe(schema: &mut Value, doc: &[&str]) {
    let text = doc.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    if !text.is_empty() {
        schema["description"] = json!(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties<'a>(part: &'a Value, out: &mut Vec<(&'a String, &'a Value)>) {
        out.extend(part["properties"].as_object().into_iter().flatten());
    }

    #[test]
    fn every_key_says_what_it_takes() {
        let schema = schema();
        let mut all = Vec::new();
        properties(&schema, &mut all);
        schema["$defs"].as_object().expect("parts").values().for_each(|part| properties(part, &mut all));
        assert!(all.len() > 60, "{}", all.len());
        for (key, property) in all {
            let says = ["type", "$ref", "anyOf", "enum"].iter().any(|word| property.get(word).is_some());
            assert!(says, "`{key}` takes anything: its type needs `Shape::schema`");
        }
        assert_eq!(schema["properties"]["services"]["additionalProperties"], json!({ "$ref": "#/$defs/Service" }));
        let timeout = &schema["$defs"]["Server"]["properties"]["drain_timeout"];
        assert_eq!(timeout["default"], "30s");
        assert_eq!(timeout["description"], "How long requests in flight may take once accepting has stopped.");
    }
}
