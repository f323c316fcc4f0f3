//! Paths are normalised once, before matching, and what is matched is what is sent on.
//!
//! RFC 3986, 5.2.4 (dot segments) and 6.2.2 (percent-encoding): unreserved characters are decoded, hexadecimal digits
//! are capitals, `%2F` and all else stay encoded. What a path can't have as it is (RFC 3986, 3.3; text that is not ASCII) is encoded, or
//! one path would have two forms, and a route for one of them could be passed by in the other.

use std::borrow::Cow;

/// The normal form of an absolute path, without its query. Borrowed when it is normal already, which most are.
///
/// # Errors
/// A path without a leading slash, a `%` without two hexadecimal digits behind it, or an encoded NUL.
pub fn path(path: &str) -> Result<Cow<'_, str>, &'static str> {
    if !path.starts_with('/') {
        return Err("the path does not begin with a slash");
    }
    let bytes = path.as_bytes();
    // Without a way out of the loop it is found out many bytes at a time.
    let is_plain = !bytes.iter().fold(false, |found, byte| found | (*byte == b'%') | !is_legal(*byte));
    let decoded = if is_plain { Cow::Borrowed(path) } else { Cow::Owned(decode(bytes)?) };
    if !decoded.contains("/.") {
        return Ok(decoded);
    }
    Ok(match resolve(&decoded) {
        Some(resolved) => Cow::Owned(resolved),
        None => decoded,
    })
}

fn decode(bytes: &[u8]) -> Result<String, &'static str> {
    let mut out = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'%' {
            match *first {
                0 => return Err("the path has a NUL"),
                byte if is_legal(byte) => out.push(char::from(byte)),
                byte => push_encoded(&mut out, byte),
            }
            rest = tail;
            continue;
        }
        let byte = match tail {
            [high, low, ..] => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        match byte.ok_or("a % in the path is not followed by two hexadecimal digits")? {
            0 => return Err("the path has an encoded NUL"),
            byte if is_unreserved(byte) => out.push(char::from(byte)),
            byte => push_encoded(&mut out, byte),
        }
        rest = &tail[2..];
    }
    Ok(out)
}

/// Removes `.` and `..` segments. `None` when there are none.
fn resolve(path: &str) -> Option<String> {
    if !path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return None;
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => {
                kept.push(segment);
                continue;
            }
        }
        if last {
            kept.push("");
        }
    }
    Some(format!("/{}", kept.join("/")))
}

/// As it is in a path (RFC 3986, 3.3: `pchar` and `/`), or the begin of an encoded one.
fn is_legal(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b'#' | b'?' | b'[' | b']')
}

/// RFC 3986, 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Appends `%XX`.
fn push_encoded(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

pub(super) fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normal_forms() {
        for (from, to) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a//b/", "/a//b/"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/../..", "/"),
            ("/a/b/../../../c", "/c"),
            ("/%61%2e%2E/x", "/a../x"),
            ("/caf\u{e9}/a|b^{c}", "/caf%C3%A9/a%7Cb%5E%7Bc%7D"),
            ("/caf%c3%a9/%7c", "/caf%C3%A9/%7C"),
            ("/a/%2e%2e/b", "/b"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2Fb/%7euser", "/a%2Fb/~user"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a/...", "/a/..."),
            ("/%25%41", "/%25A"),
        ] {
            assert_eq!(path(from).as_deref(), Ok(to), "{from}");
        }
        for bad in ["", "a", "/%", "/%4", "/%zz", "/%00", "/\0", "/a%2", "*"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_normal_form_is_its_own_and_has_no_dot_segments(text in "/([a-z./|^é]|%2[eEfF]|%[0-9a-f]{2}){0,40}") {
            if let Ok(once) = path(&text) {
                prop_assert_eq!(path(&once), Ok(Cow::Borrowed(&*once)));
                prop_assert!(once.starts_with('/') && !once.split('/').any(|s| s == "." || s == ".."));
            }
        }
    }
}
