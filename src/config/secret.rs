//! Which values nobody is shown, and how they are left out.

use serde_json::Value as Json;
use serde_yaml::Value;
use std::cmp::Reverse;
use std::fmt;

/// Keys whose values are secrets, or may have one in them.
const KEYS: [&str; 6] = ["token", "secret", "secret_base64url", "client_secret", "password", "url"];
/// What stands in the place of a secret.
pub const MASK: &str = "***";
/// Shorter ones are not looked for: they would be found everywhere.
const HIDDEN_MIN: usize = 4;

/// Texts that nobody is shown, wherever they stand: what was read from files, and what stands under the key of a secret.
#[derive(Clone, Default)]
pub struct Hidden(Vec<String>);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hidden({})", self.0.len())
    }
}

impl Hidden {
    /// Each line of the texts.
    pub(super) fn new(texts: &[String]) -> Hidden {
        let lines = texts.iter().flat_map(|text| text.lines()).map(str::trim);
        let mut all: Vec<String> = lines.filter(|line| line.len() >= HIDDEN_MIN).map(str::to_string).collect();
        // Of two of which one has the other within, the longer one goes first, or its rest would be left.
        all.sort_by_key(|text| Reverse(text.len()));
        Hidden(all)
    }

    /// A text as long as it was, so that a caret below it stays in its place.
    pub(super) fn starred(&self, text: &str) -> String {
        self.replaced(text, |secret| "*".repeat(secret.chars().count()))
    }

    pub fn masked(&self, text: &str) -> String {
        self.replaced(text, |_| MASK.to_string())
    }

    pub fn is_in(&self, text: &str) -> bool {
        self.0.iter().any(|secret| text.contains(secret))
    }

    /// Masks every text in a JSON value.
    pub fn mask(&self, value: &mut Json) {
        match value {
            Json::String(text) if self.is_in(text) => *text = self.masked(text),
            Json::Array(items) => items.iter_mut().for_each(|item| self.mask(item)),
            Json::Object(entries) => entries.values_mut().for_each(|entry| self.mask(entry)),
            _ => {}
        }
    }

    fn replaced(&self, text: &str, by: impl Fn(&str) -> String) -> String {
        let replace = |text: String, secret: &String| match text.contains(secret) {
            true => text.replace(secret, &by(secret)),
            false => text,
        };
        self.0.iter().fold(text.to_string(), replace)
    }
}

/// A header field or a parameter whose value lets somebody in.
pub fn is_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let known = ["authorization", "proxy-authorization", "cookie", "set-cookie"];
    known.contains(&&*name) || ["key", "token", "secret", "password"].iter().any(|end| name.ends_with(end))
}

pub(super) fn is_secret(key: &str) -> bool {
    KEYS.contains(&key)
}

/// A key that is one of a secret, or meant to be: what stands behind it is one even so.
fn looks_secret(key: &str) -> bool {
    let is_near = |known: &str| {
        // A line may have very many keys, and the distance takes time.
        let may_be = known.len() > 3 && key.len().abs_diff(known.len()) <= 1;
        may_be && strsim::damerau_levenshtein(&key.to_ascii_lowercase(), known) <= 1
    };
    KEYS.iter().any(|known| key.eq_ignore_ascii_case(known) || is_near(known))
}

/// Keys of URLs that name an issuer to people too.
pub(super) fn is_issuer(key: &str) -> bool {
    matches!(key, "jwks" | "oidc")
}

/// A URL in its parts: scheme, user info, host and port, path, and what is behind it.
fn parts_of_url(url: &str) -> Option<[&str; 5]> {
    let (scheme, rest) = url.split_once("://")?;
    let (rest, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let (authority, path) = rest.split_at(rest.find(['/', '\\']).unwrap_or(rest.len()));
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    Some([scheme, user, host, path, query])
}

/// What of a URL may let somebody in.
pub(super) fn secrets_of_url(url: &str) -> Vec<String> {
    let parts = parts_of_url(url).into_iter().flat_map(|[_, user, _, _, query]| [user, query.trim_start_matches(['?', '#'])]);
    parts.filter(|part| !part.is_empty()).map(str::to_string).collect()
}

/// A URL for people: scheme, host and path. What is no URL stays.
pub fn shown_url(url: &str) -> String {
    parts_of_url(url).map_or_else(|| url.to_string(), |[scheme, _, host, path, _]| format!("{scheme}://{host}{path}"))
}

/// Puts `***` in place of secrets.
pub(super) fn mask(value: &mut Value, hidden: &Hidden) {
    mask_below(value, false, hidden);
}

/// `are_names`: keys are names of header fields or of parameters.
fn mask_below(value: &mut Value, are_names: bool, hidden: &Hidden) {
    match value {
        Value::Mapping(entries) => {
            for (key, entry) in entries.iter_mut() {
                let key = key.as_str().unwrap_or_default();
                match key {
                    _ if is_secret(key) || are_names && is_credential(key) => *entry = Value::from(MASK),
                    _ if is_issuer(key) && entry.is_string() => *entry = Value::from(shown_url(entry.as_str().unwrap_or_default())),
                    "headers" | "query" => mask_below(entry, true, hidden),
                    // What stands there are names too.
                    "rename" => mask_below(entry, false, hidden),
                    _ => mask_below(entry, are_names, hidden),
                }
            }
        }
        Value::Sequence(items) => items.iter_mut().for_each(|item| mask_below(item, are_names, hidden)),
        Value::String(text) if hidden.is_in(text) => *text = hidden.masked(text),
        _ => {}
    }
}

/// A line with stars for what stands behind the key of a secret, to the end of that value. Where it comes from may be read:
/// `${TOKEN}` is none.
pub(super) fn mask_line(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    let brace = line.find('{').unwrap_or(line.len());
    while let Some((key_end, value_begin)) = next_key(rest) {
        let key = rest[..key_end].trim_end_matches(['"', '\'']).rsplit(|c: char| !c.is_alphanumeric() && c != '_').next();
        let value = &rest[value_begin..];
        let end = match key.is_some_and(looks_secret) {
            true => value_end(value, brace < line.len() - value.len()),
            false => 0,
        };
        out.push_str(&rest[..value_begin]);
        match is_reference(&value[..end]) {
            true => out.push_str(&value[..end]),
            false => out.extend(value[..end].chars().map(|_| '*')),
        }
        rest = &value[end..];
    }
    out + rest
}

/// The end of the next key, and the beginning of what stands behind it.
fn next_key(text: &str) -> Option<(usize, usize)> {
    let colon = text.match_indices(':').find(|(at, _)| text[at + 1..].starts_with([' ', '\t', '"', '\'', '[', '{']))?.0;
    let value = text[colon + 1..].find(|c: char| c != ' ' && c != '\t').map_or(text.len(), |skip| colon + 1 + skip);
    Some((colon, value))
}

/// The end of a value. A plain one in a block goes to the end of its line; in a flow map, commas and braces end it.
fn value_end(value: &str, is_flow: bool) -> usize {
    let closing = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => return quoted_end(value, quote),
        Some('[') => value.rfind(']'),
        Some('{') => value.rfind('}'),
        _ if is_flow => return value.find([',', '}']).map_or(value, |end| &value[..end]).trim_end().len(),
        _ => None,
    };
    closing.map_or(value.len(), |at| at + 1)
}

fn quoted_end(value: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in value.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if quote == '"' => is_escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    value.len()
}

fn is_reference(value: &str) -> bool {
    let inside = value.trim().trim_matches(['"', '\'']).strip_prefix("${").and_then(|text| text.strip_suffix('}'));
    inside.is_some_and(|name| !name.contains([':', '$']) || name.starts_with("file:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_shown_without_secrets() {
        for (line, shown) in [
            ("  token: abc", "  token: ***"),
            ("admin: { bind: 127.0.0.1:1, token: abc }", "admin: { bind: 127.0.0.1:1, token: *** }"),
            ("admin: { token: a, bind: b }", "admin: { token: *, bind: b }"),
            ("- \"secret\": 'a, b' # c", "- \"secret\": ****** # c"),
            ("{ secret: \"a\\\"b\", to: \"c\" }", "{ secret: ******, to: \"c\" }"),
            ("token: a, b }", "token: ******"),
            ("secret: [a, b]", "secret: ******"),
            ("token: \"${TOKEN}\"", "token: \"${TOKEN}\""),
            ("token: ${TOKEN:-abc}", "token: *************"),
            ("to: http://127.0.0.1:1", "to: http://127.0.0.1:1"),
            ("tokn: abc", "tokn: ***"),
            ("tokenizer: abc", "tokenizer: abc"),
            ("token:", "token:"),
        ] {
            assert_eq!(mask_line(line), shown, "{line}");
        }
    }
}
