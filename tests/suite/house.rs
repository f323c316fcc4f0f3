//! The house keeps its shape: which way imports point, how large files and functions are, and every shipped configuration.

use crate::kit::{frontdesk, run};
use std::fs;
use std::path::{Path, PathBuf};

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, out: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                walk(&entry, out);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                out.push((entry.clone(), fs::read_to_string(entry).expect("a file")));
            }
        }
    }
    let mut out = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut out);
    out
}

/// A file's text without its tests, which stand at its end.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default()
}

/// The room of a file: its folder in `src`, or its own name.
fn room(path: &Path) -> String {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).expect("a source");
    let first = inside.components().next().expect("a name").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_string()
}

/// The lowest rank first. Rooms of one rank never import each other.
const RANKS: &[&[&str]] = &[
    &["types", "config"],
    &["route", "auth", "limit", "upstream", "cache", "shape", "observe", "tls"],
    &["compose"],
    &["snapshot"],
    &["proxy"],
    &["admin"],
    &["server"],
    &["cli"],
    &["main", "lib"],
];
/// Rooms that name Pingora's types; the others are tested without a server.
const PINGORA: &[&str] = &["proxy", "upstream", "cache", "compose", "tls", "server", "admin"];

#[test]
fn imports_point_downwards() {
    let rank = |room: &str| RANKS.iter().position(|rooms| rooms.contains(&room)).unwrap_or_else(|| panic!("no rank for {room}"));
    for (path, text) in sources() {
        let own = room(&path);
        let body = without_tests(&text);
        for (_, rest) in body.match_indices("crate::").map(|(at, found)| (at, &body[at + found.len()..])) {
            let other: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            let is_room = RANKS.iter().any(|rooms| rooms.contains(&&*other));
            if other == own || !is_room {
                continue;
            }
            // `config` is written in the words of `types`, and the two are one rank by design.
            let is_down = rank(&other) < rank(&own) || (rank(&own) == 0 && rank(&other) == 0);
            assert!(is_down, "{}: {own} imports {other}", path.display());
        }
        assert!(PINGORA.contains(&&*own) || !body.contains("pingora::"), "{}: {own} names Pingora", path.display());
    }
}

#[test]
fn files_and_functions_are_of_a_size_to_be_read() {
    let mut lengths = Vec::new();
    for (path, text) in sources() {
        let body = without_tests(&text);
        let length = body.lines().count();
        assert!(length <= 400, "{} has {length} lines without its tests", path.display());
        assert!(room(&path) != "proxy" || !path.ends_with("mod.rs") || length <= 300, "{}", path.display());
        lengths.push(length);
        let mut begin = None;
        for (number, line) in body.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let is_fn = line
                .trim_start()
                .trim_start_matches("pub ")
                .trim_start_matches("pub(super) ")
                .trim_start_matches("async ")
                .starts_with("fn ");
            match begin {
                None if is_fn && !line.trim_end().ends_with([';', '}']) => begin = Some((number, indent)),
                Some((from, at)) if indent == at && line.trim() == "}" => {
                    assert!(number - from < 70, "{}:{}: a function of {} lines", path.display(), from + 1, number - from + 1);
                    begin = None;
                }
                _ => {}
            }
        }
        assert!(!body.contains("todo!(") && !body.contains("unimplemented!("), "{}: a stub", path.display());
        assert!(!body.contains("TODO") || body.contains("TODO(#"), "{}: a TODO without an issue", path.display());
    }
    lengths.sort_unstable();
    assert!(lengths[lengths.len() / 2] <= 150, "the median file has {} lines", lengths[lengths.len() / 2]);
}

#[test]
fn every_shipped_configuration_loads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let entries = fs::read_dir(folder).expect("conf").map(|entry| entry.expect("an entry").path());
    // What a configuration names lies in a folder of its own.
    let files: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
    assert!(!files.is_empty());
    for file in files {
        let output = run(frontdesk().current_dir(env!("CARGO_MANIFEST_DIR")).args(["check", "-c"]).arg(&file));
        assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    }
}
