//! Which values nobody is shown, and how they are left out.

use serde_yaml::Value;

/// Keys whose values are secrets, or may have one in them.
const KEYS: [&str; 6] = ["token", "secret", "secret_base64url", "client_secret", "password", "url"];

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

/// Puts `***` in place of secrets.
pub(super) fn mask(value: &mut Value) {
    match value {
        Value::Mapping(entries) => {
            for (key, entry) in entries.iter_mut() {
                match key.as_str().is_some_and(is_secret) {
                    true => *entry = Value::from("***"),
                    false => mask(entry),
                }
            }
        }
        Value::Sequence(items) => items.iter_mut().for_each(mask),
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
