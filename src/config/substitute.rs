//! `${VAR}`, `${VAR:-default}` and `${file:PATH}` in texts. Names in small letters are templates and stay as they are.

use super::place::At;
use super::problem::Problems;
use serde_yaml::Value;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Above this, a file is not what was meant, such as /dev/zero.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where values come from.
pub struct Sources<'a> {
    /// Looks up an environment variable.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// What relative paths of `${file:}` are relative to.
    pub folder: &'a Path,
}

/// Substitutes in every text below `value`; keys are left alone.
pub fn substitute(value: &mut Value, at: &At<'_>, sources: &Sources<'_>, problems: &Problems) {
    match value {
        Value::String(text) if text.contains("${") => {
            if let Some(new) = expand(text, at, sources, problems) {
                *text = new;
            }
        }
        Value::Sequence(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                substitute(item, &at.index(index), sources, problems);
            }
        }
        Value::Mapping(entries) => {
            for (key, entry) in entries.iter_mut() {
                substitute(entry, &at.key(key.as_str().unwrap_or_default()), sources, problems);
            }
        }
        _ => {}
    }
}

fn expand(text: &str, at: &At<'_>, sources: &Sources<'_>, problems: &Problems) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find("${") {
        // `$${` is a literal `${`, which the templates read likewise.
        let literal = rest[..begin].ends_with('$');
        out.push_str(&rest[..begin]);
        let Some(end) = rest[begin..].find('}').map(|end| begin + end) else { break };
        let name = &rest[begin + 2..end];
        match (literal, name.strip_prefix("file:")) {
            (false, Some(path)) => out.push_str(&read_file(path, at, sources, problems)?),
            (false, None) if name.starts_with(|c: char| c.is_ascii_uppercase()) => out.push_str(&variable(name, at, sources, problems)?),
            _ => out.push_str(&rest[begin..=end]),
        }
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    Some(out)
}

fn variable(name: &str, at: &At<'_>, sources: &Sources<'_>, problems: &Problems) -> Option<String> {
    let (name, default) = name.split_once(":-").map_or((name, None), |(name, default)| (name, Some(default)));
    (sources.environment)(name).or(default.map(str::to_string)).or_else(|| {
        let fix = format!("set it, or write `${{{name}:-default}}`");
        problems.unread(at, format!("the environment variable `{name}` is not set"), "the value would be empty", fix);
        None
    })
}

fn read_file(path: &str, at: &At<'_>, sources: &Sources<'_>, problems: &Problems) -> Option<String> {
    let mut text = String::new();
    let read = File::open(sources.folder.join(path)).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    match read {
        Ok(bytes) if bytes as u64 == FILE_BYTES_MAX => {
            problems.unread(at, format!("`{path}` is too large"), "a value is a secret or a name, not a document", "name another file");
            None
        }
        Ok(_) => Some(text.trim_end_matches(['\n', '\r']).to_string()),
        Err(e) => {
            let fix = "correct the path, or let this user read it";
            problems.unread(at, format!("can't read `{path}`: {e}"), "the value is in that file", fix);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> (Value, Vec<String>) {
        let mut value = Value::String(text.to_string());
        let problems = Problems::default();
        let environment = |name: &str| (name == "PORT").then(|| "8080".to_string());
        let sources = Sources { environment: &environment, folder: Path::new("/") };
        substitute(&mut value, &At::root(), &sources, &problems);
        (value, problems.into_parts().0.into_iter().map(|p| p.what).collect())
    }

    #[test]
    fn capitals_come_from_the_environment_and_the_rest_stays() {
        for (text, expected) in [
            ("127.0.0.1:${PORT}", "127.0.0.1:8080"),
            ("${HOST:-localhost}:${PORT}", "localhost:8080"),
            ("/new/${rest}", "/new/${rest}"),
            ("$${PORT}", "$${PORT}"),
            ("${PORT", "${PORT"),
            ("${}", "${}"),
        ] {
            assert_eq!(run(text), (Value::String(expected.into()), vec![]), "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_a_problem() {
        assert_eq!(run("${NOPE}").1, ["the environment variable `NOPE` is not set"]);
        assert!(run("${file:/no/such/file}").1[0].starts_with("can't read `/no/such/file`"));
        assert_eq!(run("${file:/dev/zero}").1, ["`/dev/zero` is too large"]);
    }
}
