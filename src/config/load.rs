//! From a file's bytes to the raw configuration, with every problem of shape.

use super::include::include;
use super::place::At;
use super::problem::{Place, Problem, Problems};
use super::raw::{self, Config};
use super::shape::{Node, Shape};
use super::source::{File, Sources};
use super::substitute::Values;
use super::{secret, yaml};
use serde_yaml::Value;
use std::io::{self, Read as _};
use std::path::Path;

/// How large one file may be.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Reads a configuration. `None` means that `problems` says why.
pub fn read(sources: &mut Sources, problems: &Problems) -> Option<Config> {
    let value = parse(sources, problems)?;
    walk(&value, sources, problems)
}

/// The walk along the schema: every problem of shape. What could be read is there even so.
pub fn walk(value: &Value, sources: &Sources, problems: &Problems) -> Option<Config> {
    Config::read(&Node { value, at: &At::root_of(sources), problems })
}

/// The configuration as YAML, with secrets masked.
pub fn show(value: &Value, sources: &Sources) -> String {
    let mut value = value.clone();
    secret::mask(&mut value, sources.hidden());
    serde_yaml::to_string(&value).unwrap_or_default()
}

/// Reads a file's text.
///
/// # Errors
/// It can't be read, is too large, or is not UTF-8.
pub fn read_file(path: &Path) -> io::Result<File> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(invalid(format!("the file is larger than {} MiB", FILE_BYTES_MAX >> 20)));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        invalid(format!("line {line} is not UTF-8"))
    })?;
    Ok(File::new(path.display().to_string(), text))
}

/// The YAML of all files, with its values put in and without the keys that are nobody's.
pub fn parse(sources: &mut Sources, problems: &Problems) -> Option<Value> {
    sources.reset();
    let (value, marks) = yaml::read(&sources.files()[0].text, 0, problems);
    sources.set_marks(0, marks);
    let mut value = value?;
    if value.is_null() {
        let fix = "write at least `listeners:` and `routes:`";
        problems.add(Problem::new(Place::File(0), "the file is empty", "a gateway needs to know where to listen", fix));
        return None;
    }
    let environment = |name: &str| std::env::var(name).ok();
    let mut values = Values::new(&environment, problems);
    if let Some(map) = value.as_mapping_mut() {
        map.retain(|key, _| !key.as_str().is_some_and(raw::is_free));
    }
    let folder = Path::new(sources.name()).parent().map(Path::to_path_buf).unwrap_or_default();
    values.put_in(&mut value, &At::root(), &folder);
    if let Some(map) = value.as_mapping_mut() {
        include(map, sources, &mut values);
    }
    sources.hide(&values.hidden);
    Some(value)
}

/// Reads a file that is a part of its own, such as a list of keys.
///
/// # Errors
/// The first thing that is wrong with it, with its place. Nothing of what stands there is repeated but keys.
pub fn part<T: Shape>(name: &str, text: &str) -> Result<T, String> {
    let (mut sources, problems) = (Sources::new(name, text), Problems::default());
    let (value, marks) = yaml::read(&sources.files()[0].text, 0, &problems);
    sources.set_marks(0, marks);
    let read = value.and_then(|mut value| {
        yaml::settle(&mut value, &At::root(), &problems);
        T::read(&Node { value: &value, at: &At::root(), problems: &problems })
    });
    match (read, problems.into_parts().0.first()) {
        (Some(read), None) => Ok(read),
        (_, Some(problem)) => Err(problem.render(&sources).lines().next().unwrap_or_default().to_string()),
        (None, None) => Err("it can't be read".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::render;
    use proptest::prelude::*;

    fn problems(text: &str) -> Vec<String> {
        let problems = Problems::default();
        let mut sources = Sources::new("f.yaml", text);
        assert!(read(&mut sources, &problems).is_some() || !problems.is_empty());
        problems.into_parts().0.iter().map(|p| p.render(&sources).lines().next().unwrap_or_default().to_string()).collect()
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
        assert_eq!(problems("a: 1\na: 2\n"), ["f.yaml:2:1: `a` is here twice", "f.yaml:1:1: unknown key `a`"]);
        assert_eq!(problems(""), ["f.yaml: the file is empty"]);
        assert_eq!(problems("just a text"), ["f.yaml:1:1: the file must be a map, not a text"]);
    }

    /// Pieces of configurations, and of what goes wrong in them.
    const PIECES: &str = "listeners:¦routes:¦services: ¦bind:¦to: ¦path: /x¦tls: ¦timeouts: ¦respond: ¦ ¦\n¦\n  ¦\t¦- ¦? ¦: ¦, ¦{ ¦ }¦[¦]¦\
        \"¦'¦|\n¦#¦&a ¦*a¦<<: ¦!x ¦---\n¦~¦${¦}¦${X}¦${X:-1}¦$${x}¦127.0.0.1:0¦[::1]¦http://¦10s¦1e999¦99999999999999999999¦-1¦64KiB¦\
        \u{feff}¦\r¦é¦💥¦\0";

    fn pieces() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(PIECES.split('¦').collect::<Vec<_>>()), 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { max_shrink_iters: 100, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_read_or_has_problems_that_can_be_shown(text in prop_oneof![any::<String>(), pieces()]) {
            problems(&text);
        }

        /// Repeated, a piece is where a parser that looks back at what it has read takes a time that grows with its square.
        #[test]
        fn no_text_takes_long(piece in pieces(), times in 1_000usize..5_000) {
            let started = std::time::Instant::now();
            let text: String = piece.chars().cycle().take(times * 20).collect();
            let (mut sources, problems) = (Sources::new("f.yaml", text), Problems::default());
            read(&mut sources, &problems);
            let mut errors = problems.into_parts().0;
            render::sort(&mut errors, &sources);
            render::render(&errors, &sources, "");
            prop_assert!(started.elapsed().as_secs() < 5, "{:?} for {piece:?}", started.elapsed());
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let value: Value = serde_yaml::from_str("admin: { bind: 127.0.0.1:1, token: abc }").expect("YAML");
        let shown = show(&value, &Sources::new("f", ""));
        assert_eq!(shown, "admin:\n  bind: 127.0.0.1:1\n  token: '***'\n");
    }

    #[test]
    fn keys_that_begin_with_x_are_free_and_anchors_merge() {
        let text = "x-base: &b { path: /* }\nlisteners: [{ bind: 127.0.0.1:0 }]\nroutes: [{ <<: *b, respond: { body: hi } }]\n";
        assert_eq!(problems(text), [""; 0]);
    }
}
