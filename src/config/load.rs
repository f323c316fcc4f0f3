//! From a file's bytes to the raw configuration, with every problem of shape.

use super::place::{At, Source};
use super::problem::{Place, Problem, Problems};
use super::raw::{self, Config};
use super::shape::{Node, Shape};
use super::substitute::{Sources, substitute};
use serde_yaml::Value;
use std::path::Path;

/// Reads a configuration. `None` means that `problems` says why.
pub fn read(source: &Source, problems: &Problems) -> Option<Config> {
    let value = parse(source, problems)?;
    walk(&value, problems)
}

/// The walk along the schema: every problem of shape.
pub fn walk(value: &Value, problems: &Problems) -> Option<Config> {
    Config::read(&Node { value, at: &At::root(), problems })
}

/// Keys whose values nobody is shown.
const SECRETS: [&str; 6] = ["token", "secret", "secret_base64url", "client_secret", "password", "url"];

/// The configuration as YAML, with secrets masked.
pub fn show(value: &Value) -> String {
    let mut value = value.clone();
    mask(&mut value);
    serde_yaml::to_string(&value).unwrap_or_default()
}

fn mask(value: &mut Value) {
    match value {
        Value::Mapping(entries) => {
            for (key, entry) in entries.iter_mut() {
                match key.as_str().is_some_and(|key| SECRETS.contains(&key)) {
                    true => *entry = Value::from("***"),
                    false => mask(entry),
                }
            }
        }
        Value::Sequence(items) => items.iter_mut().for_each(mask),
        _ => {}
    }
}

/// The YAML with its values put in and without the keys that are nobody's.
pub fn parse(source: &Source, problems: &Problems) -> Option<Value> {
    let mut value: Value = match serde_yaml::from_str(source.text()) {
        Ok(value) => value,
        Err(e) => {
            problems.add(syntax(&e));
            return None;
        }
    };
    if let Err(e) = value.apply_merge() {
        problems.add(Problem::new(
            Place::File,
            format!("`<<` can't be merged: {e}"),
            "it needs a map or a list of maps",
            "point it at an anchor of a map",
        ));
        return None;
    }
    if value.is_null() {
        let fix = "write at least `listeners:` and `routes:`";
        problems.add(Problem::new(Place::File, "the file is empty", "a gateway needs to know where to listen", fix));
        return None;
    }
    if let Some(map) = value.as_mapping_mut() {
        map.retain(|key, _| !key.as_str().is_some_and(raw::is_free));
    }
    let folder = Path::new(source.name()).parent().unwrap_or(Path::new("."));
    let environment = |name: &str| std::env::var(name).ok();
    substitute(&mut value, &At::root(), &Sources { environment: &environment, folder }, problems);
    Some(value)
}

fn syntax(e: &serde_yaml::Error) -> Problem {
    let place = e.location().map_or(Place::File, |l| Place::Position(l.line(), l.column()));
    let text = e.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    let fix = match what.contains("duplicate entry") {
        true => "remove one of the two",
        false => "mend the YAML here; indentation, a missing `:` or an unclosed quote or bracket are the usual causes",
    };
    Problem::new(place, what.to_string(), "the file can't be read any further", fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn problems(text: &str) -> Vec<String> {
        let problems = Problems::default();
        let source = Source::new("f.yaml", text);
        assert!(read(&source, &problems).is_some() || !problems.is_empty());
        problems.into_parts().0.iter().map(|p| p.render(&source).lines().next().unwrap_or_default().to_string()).collect()
    }

    #[test]
    fn all_problems_of_shape_come_at_once() {
        let text = "listeners: [{ bind: nowhere }]\nservices: { a: { endpoints: [x], balanse: random } }\nroutes: [{ path: [1], to: a, redirect: { status: 200 } }]\n";
        assert_eq!(
            problems(text),
            [
                "f.yaml:1:21: `nowhere` is not an address with a port",
                "f.yaml:2:30: `x` has no port",
                "f.yaml:2:34: unknown key `balanse`",
                "f.yaml:3:18: `path` must be a text, not a list",
                "f.yaml:3:50: `200` is not known here",
                "f.yaml:3:40: `redirect` has no `to`",
            ]
        );
    }

    #[test]
    fn yaml_that_can_not_be_parsed_says_where() {
        assert!(problems("routes: [\n  { path: /x\n")[0].starts_with("f.yaml:"));
        assert_eq!(problems("a: 1\na: 2\n"), ["f.yaml:1:1: duplicate entry with key \"a\""]);
        assert_eq!(problems(""), ["f.yaml: the file is empty"]);
        assert_eq!(problems("just a text"), ["f.yaml:1:1: `the file` must be a map, not a text"]);
    }

    /// Pieces of configurations, and of what goes wrong in them.
    const PIECES: &str = "listeners:¦routes:¦services: ¦bind:¦to: ¦path: /x¦tls: ¦timeouts: ¦respond: ¦ ¦\n¦\n  ¦\t¦- ¦? ¦: ¦, ¦{ ¦ }¦[¦]¦\
        \"¦'¦|\n¦#¦&a ¦*a¦<<: ¦!x ¦---\n¦~¦${¦}¦${X}¦${X:-1}¦$${x}¦127.0.0.1:0¦[::1]¦http://¦10s¦1e999¦99999999999999999999¦-1¦64KiB¦\
        \u{feff}¦\r¦é¦💥¦\0";

    fn pieces() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(PIECES.split('¦').collect::<Vec<_>>()), 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_has_problems_that_can_be_shown(text in prop_oneof![any::<String>(), pieces()]) {
            problems(&text);
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let value: Value = serde_yaml::from_str("admin: { bind: 127.0.0.1:1, token: abc }").expect("YAML");
        assert_eq!(show(&value), "admin:\n  bind: 127.0.0.1:1\n  token: '***'\n");
    }

    #[test]
    fn keys_that_begin_with_x_are_free_and_anchors_merge() {
        let text = "x-base: &b { path: /* }\nlisteners: [{ bind: 127.0.0.1:0 }]\nroutes: [{ <<: *b, respond: { body: hi } }]\n";
        assert_eq!(problems(text), [""; 0]);
    }
}
