//! `${VAR}`, `${VAR:-default}` and `${file:PATH}` in texts. Names in small letters are templates and stay as they are.

use super::place::At;
use super::problem::Problems;
use super::scalar::user_info;
use super::{secret, yaml};
use serde_yaml::Value;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Above this, a file is not what was meant, such as /dev/zero.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How many bytes are put in, in all.
const BYTES_MAX: usize = 16 << 20;

/// Puts values into the texts of one configuration.
pub(super) struct Values<'a> {
    /// Looks up an environment variable.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    pub problems: &'a Problems,
    /// Texts that nobody is shown: what was read from files, and what stands under the key of a secret.
    pub hidden: Vec<String>,
    bytes: usize,
}

impl<'a> Values<'a> {
    pub fn new(environment: &'a dyn Fn(&str) -> Option<String>, problems: &'a Problems) -> Values<'a> {
        Values { environment, problems, hidden: Vec::new(), bytes: 0 }
    }

    /// Substitutes in every text below `value`; keys are left alone. Relative paths of `${file:}` are relative to `folder`.
    pub fn put_in(&mut self, value: &mut Value, at: &At<'_>, folder: &Path) {
        yaml::settle(value, at, self.problems);
        self.walk(value, at, folder);
    }

    fn walk(&mut self, value: &mut Value, at: &At<'_>, folder: &Path) {
        match value {
            Value::String(text) => {
                if text.contains("${") {
                    let Some(new) = self.expand(text, at, folder) else { return };
                    *text = new;
                }
                // Wherever a URL stands: it may be one that has no business there.
                if let Some(info) = user_info(text) {
                    self.hidden.push(format!("{info}@"));
                }
                if secret::is_secret(at.name()) {
                    self.hidden.push(text.clone());
                    self.hidden.push(literal(text));
                }
                if secret::is_issuer(at.name()) {
                    self.hidden.extend(secret::secrets_of_url(text));
                }
            }
            Value::Sequence(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.walk(item, &at.index(index), folder);
                }
            }
            Value::Mapping(entries) => {
                for (key, entry) in entries.iter_mut() {
                    self.walk(entry, &at.key(key.as_str().unwrap_or_default()), folder);
                }
            }
            _ => {}
        }
    }

    /// What is put in is no template: it is escaped, and means itself to whoever reads the text.
    fn expand(&mut self, text: &str, at: &At<'_>, folder: &Path) -> Option<String> {
        let mut out = String::with_capacity(text.len());
        let (mut rest, mut is_whole) = (text, true);
        while let Some(begin) = rest.find("${") {
            // `$${` is a literal `${`, which whoever reads the text undoes.
            let literal = rest[..begin].ends_with('$');
            out.push_str(&rest[..begin]);
            rest = &rest[begin..];
            let Some(end) = rest.find('}') else { break };
            let (name, after) = (&rest[2..end], &rest[end + 1..]);
            let value = match (literal, name.strip_prefix("file:")) {
                (false, Some(path)) => {
                    let value = read_file(path, at, folder, self.problems);
                    self.hidden.extend(value.clone());
                    value.map(|value| escaped(&value))
                }
                (false, None) if name.starts_with(|c: char| c.is_ascii_uppercase()) => self.variable(name, at).map(|value| escaped(&value)),
                _ => Some(rest[..=end].to_string()),
            };
            rest = after;
            // The others are looked up all the same, so that all that is missing is said.
            let Some(value) = value else {
                is_whole = false;
                continue;
            };
            self.bytes += value.len();
            if self.bytes > BYTES_MAX {
                let why = "a value is a secret or a name, not a document";
                self.problems.unread(at, "more than 16 MiB of values that are put in", why, "put in less");
                return None;
            }
            out.push_str(&value);
        }
        out.push_str(rest);
        if !is_whole {
            self.problems.excuse(at);
        }
        is_whole.then_some(out)
    }

    fn variable(&self, name: &str, at: &At<'_>) -> Option<String> {
        let (name, default) = name.split_once(":-").map_or((name, None), |(name, default)| (name, Some(default)));
        // As in a shell: what is set and empty has its default too, where there is one.
        let set = (self.environment)(name).filter(|value| default.is_none() || !value.is_empty());
        set.or(default.map(str::to_string)).or_else(|| {
            let fix = format!("set it, or write `${{{name}:-default}}`");
            self.problems.at(at, format!("the environment variable `{name}` is not set"), "the value would be empty", fix)
        })
    }
}

/// A text that means `value`.
fn escaped(value: &str) -> String {
    value.replace("${", "$${")
}

/// What a text means that is no template.
pub(super) fn literal(text: &str) -> String {
    text.replace("$${", "${")
}

fn read_file(path: &str, at: &At<'_>, folder: &Path, problems: &Problems) -> Option<String> {
    let mut text = String::new();
    let read = File::open(folder.join(path)).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    match read {
        Ok(bytes) if bytes as u64 == FILE_BYTES_MAX => {
            problems.at(at, format!("`{path}` is too large"), "a value is a secret or a name, not a document", "name another file")
        }
        Ok(_) => Some(text.trim_end_matches(['\n', '\r']).to_string()),
        Err(e) => {
            let fix = "correct the path, or let this user read it";
            problems.at(at, format!("can't read `{path}`: {e}"), "the value is in that file", fix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> (Value, Vec<String>) {
        let mut value = Value::String(text.to_string());
        let problems = Problems::default();
        let environment = |name: &str| match name {
            "PORT" => Some("8080".to_string()),
            "EMPTY" => Some(String::new()),
            "ODD" => Some("a$${B}${c}".to_string()),
            _ => None,
        };
        Values::new(&environment, &problems).put_in(&mut value, &At::root(), Path::new("/"));
        (value, problems.into_parts().0.into_iter().map(|p| p.what).collect())
    }

    #[test]
    fn capitals_come_from_the_environment_and_the_rest_stays() {
        for (text, expected) in [
            ("127.0.0.1:${PORT}", "127.0.0.1:8080"),
            ("${HOST:-localhost}:${PORT}", "localhost:8080"),
            ("${EMPTY:-localhost}:${PORT:-1}", "localhost:8080"),
            ("a${EMPTY}${EMPTY:-}b", "ab"),
            ("/new/${rest}", "/new/${rest}"),
            ("$${PORT}", "$${PORT}"),
            ("${PORT", "${PORT"),
            ("a${PORT", "a${PORT"),
            ("${}", "${}"),
        ] {
            assert_eq!(run(text), (Value::String(expected.into()), vec![]), "{text}");
        }
    }

    #[test]
    fn what_is_put_in_means_itself() {
        let (value, _) = run("<${ODD}>");
        assert_eq!(literal(value.as_str().expect("a text")), "<a$${B}${c}>");
        assert_eq!((literal("$${A} $$$ {"), literal("$$${A}")), ("${A} $$$ {".to_string(), "$${A}".to_string()));
    }

    #[test]
    fn what_is_missing_is_a_problem() {
        assert_eq!(run("${NOPE}").1, ["the environment variable `NOPE` is not set"]);
        let two = ["the environment variable `AA` is not set", "the environment variable `BB` is not set"];
        assert_eq!(run("${AA}:${PORT}:${BB}").1, two);
        assert!(run("${file:/no/such/file}").1[0].starts_with("can't read `/no/such/file`"));
        assert_eq!(run("${file:/dev/zero}").1, ["`/dev/zero` is too large"]);
    }
}
