//! Mistakes of YAML's syntax in the words of who makes them: the parser speaks of tokens and contexts.

/// A collection that does not end.
pub(super) const UNCLOSED: &str = "a bracket that is not closed";

/// What the parser says, what is wrong, and what to do.
const KNOWN: [(&str, &str, &str); 18] = [
    ("tabs disallowed", "a tab in the indentation", "indent with spaces"),
    ("tabs are not allowed", "a tab in the indentation", "indent with spaces"),
    ("mapping values are not allowed", "a `:` where no key can stand", "put the text in quotes, or begin a new line"),
    ("block sequence entries are not allowed", "a `-` where no list can begin", "begin the list on a new line, or put the text in quotes"),
    ("did not find expected key", "this line does not stand below its neighbours", "indent it like the lines that it belongs to"),
    ("did not find expected '-'", "this line does not stand below its neighbours", "indent it like the lines that it belongs to"),
    (
        "expected ',' or '}'",
        "a `{` that is not closed, or a brace within a text",
        "close it with `}`; a text that has braces needs quotes here: `path: \"/orders/{id}\"`",
    ),
    ("expected ',' or ']'", "a `[` that is not closed", "close it with `]`, with commas between the items"),
    ("invalid indentation in flow", UNCLOSED, "close it; what is within is indented further than its key"),
    ("expected node content", "something is missing here", "write a value"),
    ("invalid indentation in quoted scalar", "a quote that is not closed", "close it, or double a quote that is part of the text"),
    ("while scanning a quoted scalar", "a quote that is not closed", "close it, or double a quote that is part of the text"),
    ("unknown escape", "an escape that is not known", "use single quotes, or double the backslash"),
    ("unknown anchor", "an alias of an anchor that is not there", "define it with `&NAME` before, or put the text in quotes"),
    ("while scanning an anchor or alias", "a text that begins like an anchor or an alias", "put it in quotes"),
    ("unexpected character", "a text that begins with a sign of YAML's own", "put it in quotes"),
    ("recursion limit", "brackets that are nested too deep", "look for brackets that are not closed"),
    ("misplaced bracket", "a bracket that nothing opened", "remove it, or put the text in quotes"),
];

/// What is wrong, and what to do.
pub(super) fn explain(info: &str) -> (String, &'static str) {
    match KNOWN.iter().find(|(says, ..)| info.contains(says)) {
        Some((_, what, fix)) => ((*what).to_string(), fix),
        None => (info.to_string(), "mend the YAML here; indentation, a missing `:` or an unclosed quote or bracket are the usual causes"),
    }
}
