//! `compose` of a route, and the changes of JSON bodies.

use super::route::Target;
use super::{Method, Name, Text};
use crate::config::schema::Parts;
use crate::config::shape::{Bound, Named, Node, Number, Patience, Shape, Size, choice, record};
use serde_json::{Value as Schema, json};
use serde_yaml::Value;
use serde_yaml::value::{Tag, TaggedValue};
use std::time::Duration;

record! {
    /// One answer from several calls, which run side by side where none needs what another found.
    pub struct Compose {
        /// For all of it.
        timeout: Patience = Patience(Duration::from_secs(10)),
        /// What is asked, by name.
        calls: Named<Option<Call>>,
        /// The answer: a JSON value with `${NAME.body.x}` in it. Without it and `merge`, each call's body under its name.
        body: Option<Json> = None,
        /// Calls whose bodies become one map, in this order.
        merge: Option<Vec<Name>> = None,
        /// What becomes of a key that two bodies have.
        on_conflict: OnConflict = OnConflict::Error,
        /// The answer's, when no required call has failed; or a text with `${…}` that becomes one.
        status: AnswerStatus = AnswerStatus::Fixed(Number(200)),
        /// A partial answer lists under `errors` what failed.
        report: bool = false,
    }
}

/// A status, or what becomes one.
#[derive(Clone, Debug)]
pub enum AnswerStatus {
    Fixed(Number<200, 599>),
    Template(String),
}

impl Shape for AnswerStatus {
    fn read(node: &Node<'_>) -> Option<Self> {
        match node.value {
            Value::String(text) if text.contains("${") => Some(AnswerStatus::Template(text.clone())),
            _ => Number::read(node).map(AnswerStatus::Fixed),
        }
    }

    fn schema(parts: &mut Parts) -> Schema {
        json!({ "anyOf": [Number::<200, 599>::schema(parts), { "type": "string", "pattern": r"\$\{" }] })
    }

    fn written(&self) -> Option<Schema> {
        match self {
            AnswerStatus::Fixed(status) => status.written(),
            AnswerStatus::Template(text) => Some(text.as_str().into()),
        }
    }
}

choice! {
    pub enum OnConflict {
        /// The answer fails.
        "error" => Error,
        "first" => First,
        "last" => Last,
        /// Maps within maps are merged too; of anything else the last stays.
        "deep" => Deep,
    }
}

record! {
    /// One call.
    pub struct Call {
        /// A service, or a URL.
        to: Target,
        method: Method = Method(http::Method::GET),
        /// Path and query, with `${…}`.
        path: Text,
        /// Names of the client's fields that go along, or fields with their values.
        headers: CallHeaders = CallHeaders::default(),
        /// What is sent: a JSON value with `${…}` in it.
        body: Option<Json> = None,
        /// Its failure is the answer's, status and body passed on.
        required: bool = false,
        /// The answer of a required call that fails is 502, whatever the service said.
        on_error: OnError = OnError::Pass,
        /// Without it the answer is a partial one, as holds wherever `required` is not set.
        optional: bool = false,
        /// Stands for the body of a call that fails.
        default: Option<Json> = None,
        /// For this call, within that of the whole.
        timeout: Bound = Bound(None),
        /// A list, as `${NAME.body.x}`: the call is made for each item, which is `${item}`, and its body is the list of all bodies.
        for_each: Option<Text> = None,
        /// Items that are asked for; those behind are left out.
        items_max: Number<1, 1_000> = Number(50),
        /// Of them at once.
        parallel: Number<1, 100> = Number(8),
        /// A larger answer is a failure.
        body_bytes_max: Size = Size(4 << 20),
    }
}

choice! {
    pub enum OnError { "pass" => Pass, "502" => BadGateway, }
}

/// What a call has for header fields.
#[derive(Clone, Debug)]
pub enum CallHeaders {
    /// The client's own, by name.
    Passed(Vec<String>),
    /// With values.
    Set(Named<Text>),
}

impl Default for CallHeaders {
    fn default() -> Self {
        CallHeaders::Passed(Vec::new())
    }
}

impl Shape for CallHeaders {
    fn read(node: &Node<'_>) -> Option<Self> {
        match node.value {
            Value::Mapping(_) => Named::read(node).map(CallHeaders::Set),
            Value::Sequence(_) => node.list().map(CallHeaders::Passed),
            _ => node.expected("a list of names, or a map of names and values", "[Accept-Language]"),
        }
    }

    fn schema(parts: &mut Parts) -> Schema {
        json!({ "anyOf": [Vec::<String>::schema(parts), Named::<Text>::schema(parts)] })
    }
}

/// Any JSON value. A number that YAML writes otherwise than we would is tagged, with its digits as a text.
#[derive(Clone, Debug)]
pub struct Json(pub Value);

impl Shape for Json {
    fn read(node: &Node<'_>) -> Option<Self> {
        read(node).map(Json)
    }

    fn schema(_: &mut Parts) -> Schema {
        json!({ "type": ["object", "array", "string", "number", "boolean", "null"] })
    }
}

/// What YAML has said, where JSON can say it too.
fn read(node: &Node<'_>) -> Option<Value> {
    match node.value {
        Value::String(digits) if node.problems.is_number(node.at) => {
            Some(Value::Tagged(Box::new(TaggedValue { tag: Tag::new("number"), value: digits.as_str().into() })))
        }
        Value::Number(number) if number.as_f64().is_some_and(|number| !number.is_finite()) => {
            node.problem("a number without a value", "JSON has none", "write `null`, or a text")
        }
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Number(_) => Some(node.value.clone()),
        Value::Sequence(items) => {
            let item = |(index, value)| read(&Node { value, at: &node.at.index(index), ..*node });
            // All of them, so that each problem is said.
            let items: Vec<_> = items.iter().enumerate().map(item).collect();
            items.into_iter().collect::<Option<_>>().map(Value::Sequence)
        }
        Value::Mapping(members) => {
            let member = |(key, value): (&Value, &Value)| {
                let name = match key {
                    Value::String(name) => name.clone(),
                    Value::Number(number) => number.to_string(),
                    _ => return node.problem("a key that is not a text", "names of a JSON object are texts", "put the key in quotes"),
                };
                Some((key.clone(), read(&Node { value, at: &node.at.key(&name), ..*node })?))
            };
            let members: Vec<_> = members.iter().map(member).collect();
            members.into_iter().collect::<Option<_>>().map(Value::Mapping)
        }
        Value::Tagged(_) => node.problem("a tagged value", "JSON has no tags", "remove the tag"),
    }
}
