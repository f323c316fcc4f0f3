//! Header fields that a route removes, renames, sets and adds, in this order.

use super::forward::is_alike;
use super::template::{Names, Target, Template, Values, Variable};
use crate::config::place::At;
use crate::config::problem::{Place, Problem, Problems};
use crate::config::raw;
use crate::config::secret::{MASK, is_credential};
pub use crate::types::fields::{HOP_BY_HOP, nominated};
use http::{HeaderName, HeaderValue};

/// One change to a header. Its text is without credentials.
#[derive(Debug)]
pub enum Edit<'a> {
    Remove(&'a HeaderName),
    /// All of one name get another.
    Rename(&'a HeaderName, &'a HeaderName),
    Set(&'a HeaderName, HeaderValue),
    Add(&'a HeaderName, HeaderValue),
}

impl std::fmt::Display for Edit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |name: &HeaderName, value: &'_ HeaderValue| match is_credential(name.as_str()) {
            true => MASK.to_string(),
            false => String::from_utf8_lossy(value.as_bytes()).into_owned(),
        };
        match self {
            Edit::Remove(name) => write!(f, "remove {name}"),
            Edit::Rename(from, to) => write!(f, "rename {from} to {to}"),
            Edit::Set(name, value) => write!(f, "set {name}: {}", shown(name, value)),
            Edit::Add(name, value) => write!(f, "add {name}: {}", shown(name, value)),
        }
    }
}

/// Compiled changes.
#[derive(Clone, Debug, Default)]
pub struct HeaderEdits {
    remove: Vec<HeaderName>,
    rename: Vec<(HeaderName, HeaderName)>,
    set: Vec<(HeaderName, Text)>,
    add: Vec<(HeaderName, Text)>,
}

/// A value that is the same for every request costs nothing but a reference.
#[derive(Clone, Debug)]
enum Text {
    Fixed(HeaderValue),
    Template(Template),
}

impl HeaderEdits {
    /// Compiles what was typed at `at`. `None` means that a problem was reported.
    pub fn build(raw: &raw::HeaderChanges, names: Names<'_>, at: &At<'_>, problems: &Problems) -> Option<HeaderEdits> {
        let at = at.key("headers");
        let remove_at = at.key("remove");
        let remove: Vec<_> =
            raw.remove.iter().enumerate().map(|(i, name)| field(name, Place::Value(remove_at.index(i).path()), problems)).collect();
        let rename_at = at.key("rename");
        let rename = raw.rename.0.iter().map(|(from, to)| {
            let at = rename_at.key(from);
            let (from, to) = (field(from, Place::Key(at.path()), problems), field(to, Place::Value(at.path()), problems));
            Some((from?, to?))
        });
        let rename: Vec<_> = rename.collect();
        let set = pairs(&raw.set.0, names, &at.key("set"), problems);
        let add = pairs(&raw.add.0, names, &at.key("add"), problems);
        let (remove, rename) = (remove.into_iter().collect::<Option<_>>()?, rename.into_iter().collect::<Option<_>>()?);
        Some(HeaderEdits { remove, rename, set: set?, add: add? })
    }

    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.rename.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Whether a field is a look-alike of one that is removed, renamed or set: `x_who` of `x-who`.
    pub fn is_look_alike(&self, name: &HeaderName) -> bool {
        let name = name.as_str();
        if !name.as_bytes().contains(&b'_') {
            return false;
        }
        let renamed = self.rename.iter().flat_map(|(from, to)| [from, to]);
        let mut named = self.remove.iter().chain(renamed).chain(self.set.iter().map(|(name, _)| name));
        named.any(|ours| ours != name && is_alike(Some(name), ours.as_str()))
    }

    /// Whether a field's value is made by these changes, and is not the same for every request.
    pub fn makes(&self, name: &HeaderName) -> bool {
        let is_template = |(own, text): &(HeaderName, Text)| own == name && matches!(text, Text::Template(_));
        self.rename.iter().any(|(_, to)| to == name) || self.set.iter().chain(&self.add).any(is_template)
    }

    /// What is put into the values.
    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.set.iter().chain(&self.add).flat_map(|(_, text)| {
            match text {
                Text::Fixed(_) => None,
                Text::Template(template) => Some(template.variables()),
            }
            .into_iter()
            .flatten()
        })
    }

    /// The changes for one request. A value that can't be a field's is left out.
    pub fn edits<'a>(&'a self, values: &'a dyn Values) -> impl Iterator<Item = Edit<'a>> {
        let set = self.set.iter().filter_map(|(name, text)| text.value(values).map(|value| Edit::Set(name, value)));
        let add = self.add.iter().filter_map(|(name, text)| text.value(values).map(|value| Edit::Add(name, value)));
        let rename = self.rename.iter().map(|(from, to)| Edit::Rename(from, to));
        self.remove.iter().map(Edit::Remove).chain(rename).chain(set).chain(add)
    }
}

impl Text {
    fn value(&self, values: &dyn Values) -> Option<HeaderValue> {
        match self {
            Text::Fixed(value) => Some(value.clone()),
            Text::Template(template) => HeaderValue::try_from(template.render(values, Target::Header)).ok(),
        }
    }
}

fn pairs(raw: &[(String, raw::Text)], names: Names<'_>, at: &At<'_>, problems: &Problems) -> Option<Vec<(HeaderName, Text)>> {
    let read: Vec<_> = raw
        .iter()
        .map(|(name, text)| {
            let at = at.key(name);
            let field = field(name, Place::Key(at.path()), problems);
            let text = self::text(text, names, &at, problems);
            Some((field?, text?))
        })
        .collect();
    read.into_iter().collect()
}

fn text(text: &str, names: Names<'_>, at: &At<'_>, problems: &Problems) -> Option<Text> {
    let template = problems.ok(Template::parse(text, names), at, "the field would have no value", super::template::FIX)?;
    match template.literal().map(HeaderValue::from_str) {
        None => Some(Text::Template(template)),
        Some(Ok(value)) => Some(Text::Fixed(value)),
        Some(Err(_)) => problems.at(at, "the value has control characters", "they can't stand in a header field", "remove them"),
    }
}

fn field(name: &str, place: Place, problems: &Problems) -> Option<HeaderName> {
    let problem = |what: String, why: &str, fix: &str| {
        problems.add(Problem::new(place, what, why, fix));
        None
    };
    let Ok(field) = name.parse::<HeaderName>() else {
        return problem(format!("`{name}` is not a header's name"), "it can't stand in a header", "use letters, digits and `-`");
    };
    if HOP_BY_HOP.contains(&field) || field == http::header::CONTENT_LENGTH {
        let why = "it frames the message, and the gateway frames each message anew";
        return problem(format!("`{name}` can't be changed"), why, "remove it");
    }
    if field == http::header::HOST {
        return problem("`Host` can't be changed here".to_string(), "it goes with the service", "set `host:` of the service");
    }
    Some(field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::shape::Named;
    use crate::shape::template::Value;

    struct Nobody;
    impl Values for Nobody {
        fn value(&self, _: &Variable) -> Value<'_> {
            Value::Plain("x".into())
        }
    }

    fn raw(set: &[(&str, &str)], remove: &[&str]) -> raw::HeaderChanges {
        let set = set.iter().map(|(name, text)| (name.to_string(), raw::Text(text.to_string()))).collect();
        raw::HeaderChanges {
            set: Named(set),
            add: Named::default(),
            rename: Named::default(),
            remove: remove.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn removes_then_sets() {
        let problems = Problems::default();
        let edits = HeaderEdits::build(&raw(&[("X-A", "${route}!")], &["X-B"]), Names::default(), &At::root(), &problems);
        let edits = edits.expect("no problem");
        let shown: Vec<String> = edits.edits(&Nobody).map(|edit| format!("{edit:?}")).collect();
        assert_eq!(shown, ["Remove(\"x-b\")", "Set(\"x-a\", \"x!\")"]);
    }

    #[test]
    fn framing_and_strange_names_are_problems() {
        let problems = Problems::default();
        let raw = raw(&[("Content-Length", "1"), ("Host", "a"), ("a b", "1"), ("X", "${nope}")], &["Connection"]);
        assert!(HeaderEdits::build(&raw, Names::default(), &At::root(), &problems).is_none());
        assert_eq!(problems.count(), 5);
    }
}
