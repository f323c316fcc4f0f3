//! Requests that a route would take, as far as it can be told from what is written.

use super::expression::Expression;
use super::pattern::{Pattern, Segment};
use regex_syntax::hir::{Class, Hir, HirKind};

/// What stands for a segment or a value that may be anything: hardly a literal of another route.
const ANYTHING: &str = "x-anything";
/// Repetitions that are written out, at most.
const REPEATED_MAX: u32 = 64;

/// Paths that a pattern takes: with nothing, a slash and more in place of a `*`.
pub fn of_pattern(text: &str) -> Vec<String> {
    let Ok(pattern) = Pattern::parse(text) else { return Vec::new() };
    let segment = |segment: &Segment| match segment {
        Segment::Literal(text) => format!("/{text}"),
        Segment::Capture(_) => format!("/{ANYTHING}"),
        Segment::Rest => String::new(),
    };
    let base: String = pattern.segments.iter().map(segment).collect();
    match pattern.has_rest() {
        false => vec![base],
        true => ["", "/", "/x-anything/below"].iter().map(|rest| format!("{base}{rest}")).filter(|path| !path.is_empty()).collect(),
    }
}

/// A text that an expression matches as a whole, if one is found.
pub fn of_expression(text: &str) -> Option<String> {
    let mut example = Vec::new();
    write(&regex_syntax::parse(text).ok()?, &mut example);
    let example = String::from_utf8(example).ok()?;
    Expression::parse(text).ok()?.is_match(example.as_bytes()).then_some(example)
}

/// A host that a pattern covers.
pub fn of_host(text: &str) -> String {
    text.strip_prefix("*.").map_or_else(|| text.to_string(), |rest| format!("{ANYTHING}.{rest}"))
}

fn write(hir: &Hir, out: &mut Vec<u8>) {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => out.extend_from_slice(&literal.0),
        HirKind::Class(Class::Unicode(class)) => {
            let plain = class.iter().find(|range| range.start() <= 'x' && 'x' <= range.end()).map(|_| 'x');
            let first = plain.or_else(|| class.iter().map(|range| range.start().max('!')).next());
            out.extend_from_slice(first.map(String::from).unwrap_or_default().as_bytes());
        }
        HirKind::Class(Class::Bytes(class)) => out.extend(class.iter().map(|range| range.start()).next()),
        HirKind::Repetition(repetition) => {
            let times = repetition.min.max(u32::from(repetition.max != Some(0))).min(REPEATED_MAX);
            (0..times).for_each(|_| write(&repetition.sub, out));
        }
        HirKind::Capture(capture) => write(&capture.sub, out),
        HirKind::Concat(parts) => parts.iter().for_each(|part| write(part, out)),
        HirKind::Alternation(parts) => parts.iter().take(1).for_each(|part| write(part, out)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_patterns() {
        assert_eq!(of_pattern("/a/{id}/b"), ["/a/x-anything/b"]);
        assert_eq!(of_pattern("/a/*"), ["/a", "/a/", "/a/x-anything/below"]);
        assert_eq!(of_pattern("/*"), ["/", "/x-anything/below"]);
        assert_eq!((of_host("*.example.com").as_str(), of_host("a.b").as_str()), ("x-anything.example.com", "a.b"));
    }

    #[test]
    fn texts_of_expressions() {
        for text in ["/v(?<version>[0-9]+)/.*", "a{3}|b", "/(?i)abc[^/]*", "(en|de)(-[a-z]{2})?", ""] {
            assert!(of_expression(text).is_some(), "{text}");
        }
        assert_eq!(of_expression(r"\bx\b|a"), Some("x".to_string()));
    }
}
