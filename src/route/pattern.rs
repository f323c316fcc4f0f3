//! Path patterns: literal segments, `{name}` for one non-empty segment, and `*` at the end for the rest.

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    Literal(Box<str>),
    /// `{name}`.
    Capture(Box<str>),
    /// `*`: what is left, even nothing.
    Rest,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    pub segments: Vec<Segment>,
}

impl Pattern {
    /// Reads `/orders/{id}/*`.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        let Some(rest) = text.strip_prefix('/') else { return Err(format!("the path `{text}` does not begin with a slash")) };
        if text.contains(['?', '#']) {
            return Err(format!("the path `{text}` has a query or a fragment"));
        }
        let mut segments = Vec::new();
        for part in rest.split('/') {
            if matches!(segments.last(), Some(Segment::Rest)) {
                return Err(format!("`*` is not at the end of `{text}`"));
            }
            segments.push(segment(part, text)?);
        }
        let pattern = Pattern { segments };
        let mut names = pattern.names();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("`{text}` has `{{{}}}` twice", pair[0])),
            None => Ok(pattern),
        }
    }

    /// The captures' names, in their order.
    pub fn names(&self) -> Vec<&str> {
        fn name(segment: &Segment) -> Option<&str> {
            match segment {
                Segment::Capture(name) => Some(name),
                Segment::Literal(_) | Segment::Rest => None,
            }
        }
        self.segments.iter().filter_map(name).collect()
    }

    /// Whether it fits every path: `/*`.
    pub fn is_everything(&self) -> bool {
        matches!(self.segments[..], [Segment::Rest])
    }

    pub fn has_rest(&self) -> bool {
        matches!(self.segments.last(), Some(Segment::Rest))
    }
}

/// Whether templates can call a capture by that name.
pub(super) fn is_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    name.starts_with(|first: char| first.is_ascii_lowercase()) && name.bytes().all(legal)
}

fn segment(part: &str, text: &str) -> Result<Segment, String> {
    if part == "*" {
        return Ok(Segment::Rest);
    }
    if let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        return match is_name(name) {
            true => Ok(Segment::Capture(name.into())),
            false => Err(format!("`{{{name}}}` in `{text}` is not a name of small letters, digits and `_`")),
        };
    }
    if part.contains(['*', '{', '}']) {
        return Err(format!("`{part}` in `{text}`: `*` and `{{name}}` stand for whole segments"));
    }
    match super::normalize::path(&format!("/{part}")) {
        // A text that is not ASCII is meant as clients send it.
        Ok(normal) if normal[1..] == *part || !(part.is_ascii() || part.contains('%')) => Ok(Segment::Literal(normal[1..].into())),
        Ok(normal) => {
            let meant = match &normal[1..] {
                // Dot segments lead elsewhere.
                "" => super::normalize::path(text).unwrap_or_default().replace("%7B", "{").replace("%7D", "}"),
                segment => segment.to_string(),
            };
            Err(format!("no request ever has `{part}`: paths are normalised before they are matched; write `{meant}`"))
        }
        Err(what) => Err(format!("`{text}`: {what}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_segments() {
        let pattern = Pattern::parse("/orders/{id}/*").expect("a pattern");
        assert_eq!(pattern.segments, [Segment::Literal("orders".into()), Segment::Capture("id".into()), Segment::Rest]);
        assert_eq!((pattern.names(), pattern.has_rest()), (vec!["id"], true));
        assert_eq!(Pattern::parse("/").map(|p| p.segments), Ok(vec![Segment::Literal("".into())]));
        for bad in ["", "x", "/*/x", "/a*", "/{}", "/{Id}", "/{a}/{a}", "/a?b", "/x/../y", "/%61", "/{a}b"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
        for (bad, good) in [("/a b/x", "a%20b"), ("/x/%61", "a"), ("/a/../b/{id}", "/b/{id}"), ("/./a/*", "/a/*")] {
            let what = Pattern::parse(bad).expect_err("no pattern");
            assert!(
                what.ends_with(&format!("write `{good}`")) && Pattern::parse(&format!("/{}", good.trim_start_matches('/'))).is_ok(),
                "{what}"
            );
        }
    }
}
