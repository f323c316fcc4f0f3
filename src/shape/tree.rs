//! JSON values with `${…}` in them: a text that is one `${…}` and nothing else becomes that value, with its type.

use super::json::{NULL, write_text};
use super::template::{Names, Target, Template, Values, Variable};
use crate::config::place::At;
use crate::config::problem::Problems;
use serde_yaml::Value as Yaml;

/// A compiled value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tree {
    /// Nothing to put in: its text.
    Fixed(Box<str>),
    Value(Variable),
    Text(Template),
    Object(Vec<(Box<str>, Tree)>),
    List(Vec<Tree>),
}

impl Tree {
    /// Compiles what was typed at `at`. `fix` says which names there are. `None` means that a problem was reported.
    pub fn build(raw: &Yaml, names: Names<'_>, fix: &str, at: &At<'_>, problems: &Problems) -> Option<Tree> {
        match raw {
            Yaml::Null => Some(Tree::Fixed(NULL.into())),
            Yaml::Bool(yes) => Some(Tree::Fixed(yes.to_string().into())),
            Yaml::Number(number) => Some(Tree::Fixed(number.to_string().into())),
            Yaml::String(text) => {
                let template = problems.ok(Template::parse(text, names), at, "there would be nothing to put in", fix)?;
                Some(match (template.literal(), template.only()) {
                    (Some(text), _) => Tree::Fixed(fixed(|out| write_text(text, out))),
                    (None, Some(variable)) => Tree::Value(variable.clone()),
                    (None, None) => Tree::Text(template),
                })
            }
            Yaml::Sequence(items) => {
                let items: Vec<_> =
                    items.iter().enumerate().map(|(index, item)| Tree::build(item, names, fix, &at.index(index), problems)).collect();
                Some(Tree::List(items.into_iter().collect::<Option<_>>()?).folded())
            }
            Yaml::Mapping(members) => {
                let member = |(key, value): (&Yaml, &Yaml)| {
                    // Whatever else a key may be, it was refused when it was read.
                    let key = key.as_str().map_or_else(|| key.as_i64().unwrap_or_default().to_string(), str::to_string);
                    let tree = Tree::build(value, names, fix, &at.key(&key), problems)?;
                    Some((key.as_str().into(), tree))
                };
                let members: Vec<_> = members.iter().map(member).collect();
                Some(Tree::Object(members.into_iter().collect::<Option<_>>()?).folded())
            }
            // Other tags were refused when it was read.
            Yaml::Tagged(number) => Some(Tree::Fixed(number.value.as_str().unwrap_or(NULL).into())),
        }
    }

    /// The same, written down when nothing is put in.
    fn folded(self) -> Tree {
        let is_fixed = match &self {
            Tree::List(items) => items.iter().all(|item| matches!(item, Tree::Fixed(_))),
            Tree::Object(members) => members.iter().all(|(_, value)| matches!(value, Tree::Fixed(_))),
            Tree::Fixed(_) | Tree::Value(_) | Tree::Text(_) => false,
        };
        if is_fixed { Tree::Fixed(fixed(|out| self.write(&Nothing, out))) } else { self }
    }

    /// Writes it with the values of one request.
    pub fn write(&self, values: &dyn Values, out: &mut Vec<u8>) {
        match self {
            Tree::Fixed(text) => out.extend_from_slice(text.as_bytes()),
            Tree::Value(variable) => values.json(variable, out),
            Tree::Text(template) => write_text(&template.render(values, Target::Body), out),
            Tree::Object(members) => {
                out.push(b'{');
                for (index, (name, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    write_text(name, out);
                    out.push(b':');
                    value.write(values, out);
                }
                out.push(b'}');
            }
            Tree::List(items) => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    item.write(values, out);
                }
                out.push(b']');
            }
        }
    }

    /// What is put into it.
    pub fn variables(&self) -> Vec<&Variable> {
        match self {
            Tree::Fixed(_) => Vec::new(),
            Tree::Value(variable) => vec![variable],
            Tree::Text(template) => template.variables().collect(),
            Tree::Object(members) => members.iter().flat_map(|(_, value)| value.variables()).collect(),
            Tree::List(items) => items.iter().flat_map(Tree::variables).collect(),
        }
    }
}

fn fixed(write: impl FnOnce(&mut Vec<u8>)) -> Box<str> {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).unwrap_or_default().into()
}

/// For what has nothing to put in.
struct Nothing;

impl Values for Nothing {
    fn value(&self, _: &Variable) -> super::template::Value<'_> {
        super::template::Value::Plain("".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::template::Value;

    struct Fixed;
    impl Values for Fixed {
        fn value(&self, variable: &Variable) -> Value<'_> {
            match variable {
                Variable::Path => Value::Path("/a%20b".into()),
                _ => Value::Plain("x\"y".into()),
            }
        }
        fn json(&self, variable: &Variable, out: &mut Vec<u8>) {
            match variable {
                Variable::Identity => out.extend_from_slice(b"[1.10]"),
                other => match self.value(other) {
                    Value::Path(_) => write_text("/a b", out),
                    _ => write_text("", out),
                },
            }
        }
    }

    fn written(yaml: &str) -> String {
        let raw: Yaml = serde_yaml::from_str(yaml).expect("YAML");
        let problems = Problems::default();
        let tree = Tree::build(&raw, Names::default(), "", &At::root(), &problems).expect("a tree");
        let mut out = Vec::new();
        tree.write(&Fixed, &mut out);
        String::from_utf8(out).expect("a text")
    }

    #[test]
    fn values_keep_their_types_and_members_their_order() {
        assert_eq!(written("{ b: 1, a: [true, null, 1.5, text], n: { c: {} } }"), r#"{"b":1,"a":[true,null,1.5,"text"],"n":{"c":{}}}"#);
        assert_eq!(
            written("{ user: '${identity}', says: 'I am ${route}', path: '${path}' }"),
            r#"{"user":[1.10],"says":"I am x\"y","path":"/a b"}"#
        );
        assert_eq!(written("'$${identity}'"), "\"${identity}\"");
    }
}
