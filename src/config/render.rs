//! Problems as they are shown: to people, with the line and a caret, and as JSON.

use super::marks::{Position, Span};
use super::place::Step;
use super::problem::{Place, Problem};
use super::secret;
use super::source::{File, Sources};
use serde_json::{Value, json};
use std::fmt::Write as _;
use unicode_width::UnicodeWidthChar;

/// How many problems are shown; a file of another kind has one in each line.
pub const SHOWN_MAX: usize = 100;
/// Columns of a line that are shown; a longer one is cut around the caret.
const COLUMNS_MAX: usize = 120;
/// Columns before the caret of a line that is cut.
const COLUMNS_BEFORE: usize = 50;
/// Bytes of a line that is looked at: nobody has typed a longer one.
const LINE_MAX: usize = 20_000;
/// Characters of a message; it may quote a value.
const MESSAGE_MAX: usize = 400;

impl Problem {
    /// `file:line:col: what`, the line with a caret below, the cause and the remedy.
    pub fn render(&self, sources: &Sources) -> String {
        let mut out = String::new();
        let (file, span) = sources.find(&self.place);
        let what = message(&self.what, sources);
        let _ = match span {
            Some(span) => {
                let Position { line, column } = span.position;
                let margin = line.to_string().len();
                let (text, caret) = match file.line(line) {
                    long if long.len() > LINE_MAX => (format!("(a line of {} KiB)", long.len() >> 10), String::new()),
                    line => excerpt(&sources.hidden().starred(&secret::mask_line(line)), span),
                };
                write!(
                    out,
                    "{}:{line}:{column}: {what}\n {:margin$} |\n {line} | {text}\n {:margin$} | {caret}\n",
                    clean(&file.name),
                    "",
                    ""
                )
            }
            None => writeln!(out, "{}: {what}", clean(&file.name)),
        };
        if let Some(other) = &self.also {
            let _ = writeln!(out, "  and: {}", place(sources.find(other)));
        }
        let _ = write!(out, "  why: {}\n  fix: {}\n", message(&self.why, sources), message(&self.fix, sources));
        out
    }

    /// The same for machines.
    pub fn json(&self, sources: &Sources, severity: &str) -> Value {
        let (file, span) = sources.find(&self.place);
        let position = span.map(|span| span.position);
        let path = match &self.place {
            Place::Key(path) | Place::Value(path) => Some(self::path(path)),
            Place::Exact(..) | Place::File(_) => None,
        };
        json!({
            "severity": severity,
            "file": file.name,
            "line": position.map(|at| at.line),
            "column": position.map(|at| at.column),
            "path": path,
            "what": message(&self.what, sources),
            "why": message(&self.why, sources),
            "fix": message(&self.fix, sources),
            "also": self.also.as_ref().map(|other| place(sources.find(other))),
        })
    }
}

/// Puts problems in the order of the files.
pub fn sort(problems: &mut [Problem], sources: &Sources) {
    let number = |file: &File| sources.files().iter().position(|other| std::ptr::eq(other, file));
    problems.sort_by_cached_key(|problem| {
        let (file, span) = sources.find(&problem.place);
        (number(file), span.map(|span| span.position))
    });
}

/// All problems, up to [`SHOWN_MAX`], with `lead` before and an empty line behind each.
pub fn render(problems: &[Problem], sources: &Sources, lead: &str) -> String {
    let mut out = String::new();
    for problem in problems.iter().take(SHOWN_MAX) {
        let _ = writeln!(out, "{lead}{}", problem.render(sources));
    }
    if let Some(more @ 1..) = problems.len().checked_sub(SHOWN_MAX) {
        let _ = writeln!(out, "{lead}and {more} more\n");
    }
    out
}

fn place((file, span): (&File, Option<Span>)) -> String {
    match span {
        Some(span) => format!("{}:{}:{}", clean(&file.name), span.position.line, span.position.column),
        None => clean(&file.name),
    }
}

/// A path as one writes it: `routes[3].to`.
fn path(path: &[Step]) -> String {
    path.iter().enumerate().fold(String::new(), |mut out, (n, step)| {
        let _ = match step {
            Step::Key(key) if n == 0 => write!(out, "{key}"),
            Step::Key(key) => write!(out, ".{key}"),
            Step::Index(index) => write!(out, "[{index}]"),
        };
        out
    })
}

/// A text that can't do anything to a terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// A text of one line, of a length that can be read.
fn message(text: &str, sources: &Sources) -> String {
    let text = clean(&sources.hidden().starred(text));
    match text.char_indices().nth(MESSAGE_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A line, cut around what is underlined when it is long, and the line below it.
fn excerpt(line: &str, span: Span) -> (String, String) {
    let line = clean(line);
    let all: Vec<char> = line.trim_end().chars().collect();
    let before = (span.position.column - 1).min(all.len());
    let from = if all.len() > COLUMNS_MAX { before.saturating_sub(COLUMNS_BEFORE) } else { 0 };
    let to = all.len().min(from + COLUMNS_MAX);
    // The parser counts blanks behind a quote to what is quoted.
    let blanks = |end: usize| all[before..end].iter().rev().take_while(|c| c.is_whitespace()).count();
    let end = before.saturating_add(span.width).clamp(before, to.max(before));
    let end = end - blanks(end);
    let (head, tail) = (if from > 0 { "…" } else { "" }, if to < all.len() { "…" } else { "" });
    let text = format!("{head}{}{tail}", all[from..to].iter().collect::<String>());
    // A tab stays one, and what is two columns wide is passed by two: the caret is where the eye is.
    let lead: String =
        all[from..before].iter().map(|c| if *c == '\t' { "\t".to_string() } else { " ".repeat(c.width().unwrap_or(1)) }).collect();
    let width: usize = all[before..end].iter().map(|c| c.width().unwrap_or(1)).sum();
    (text, format!("{}{lead}{}", if from > 0 { " " } else { "" }, "^".repeat(width.max(1))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::place::At;
    use crate::config::{load, problem::Problems};

    fn shown(text: &str, key: &str) -> Vec<String> {
        let mut sources = Sources::new("f", text);
        let problems = Problems::default();
        load::parse(&mut sources, &problems);
        let (root, mut problem) = (At::root(), Problem::new(Place::File(0), "w", "y", "f"));
        let x = root.key("x");
        problem.place = Place::Value(x.key(key).path());
        problem.render(&sources).lines().map(str::to_string).collect()
    }

    #[test]
    fn shows_the_place_the_line_and_a_caret_under_the_word() {
        let shown = shown("a: 1\nx:\n  thread: 4 # so\n", "thread");
        assert_eq!(shown, ["f:3:11: w", "   |", " 3 |   thread: 4 # so", "   |           ^", "  why: y", "  fix: f"]);
    }

    #[test]
    fn the_caret_is_where_the_eye_is() {
        for (text, line, caret) in [
            ("x: { a: \"b c\", d: e }\n", " 1 | x: { a: \"b c\", d: e }", "   |         ^^^^^"),
            ("x:\r\n  a: b\r\n", " 2 |   a: b", "   |      ^"),
            ("\u{feff}x: { a: b }", " 1 | x: { a: b }", "   |         ^"),
            ("x: { 名: 前, a: 値段 }", " 1 | x: { 名: 前, a: 値段 }", "   |                 ^^^^"),
            ("x: { q: 1,\ta: b }", " 1 | x: { q: 1,\ta: b }", "   |           \t   ^"),
            ("x: { a: \"\u{1b}[31mb\" }", " 1 | x: { a: \"\u{fffd}[31mb\" }", "   |         ^^^^^^^^"),
        ] {
            let shown = shown(text, "a");
            assert_eq!(shown.len(), 6, "{text:?}: {shown:?}");
            assert_eq!((&*shown[2], &*shown[3]), (line, caret), "{text:?}");
        }
    }

    #[test]
    fn long_lines_are_cut_around_the_caret() {
        let text = format!("x: {{ b: \"{}\", a: here, c: \"{}\" }}", "b".repeat(300), "c".repeat(300));
        let shown = shown(&text, "a");
        assert!(shown[2].starts_with(" 1 | …bbb") && shown[2].ends_with("ccc…") && shown[2].chars().count() < 130, "{}", shown[2]);
        let at = shown[3].find('^').expect("a caret");
        let under: String = shown[2].chars().skip(at).take(4).collect();
        assert_eq!((&*under, shown[3].matches('^').count()), ("here", 4));
    }
}
