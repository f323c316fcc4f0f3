//! Hosts: exact names, and `*.` with the rest, which covers one or more labels. Port and case don't count.

/// What a route says of the host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    Exact(Box<str>),
    /// What is behind the star, with the dot: `.example.com`.
    Wildcard(Box<str>),
    Any,
}

impl HostPattern {
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<HostPattern, String> {
        let lower = text.to_ascii_lowercase();
        let (wildcard, name) = match lower.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, &*lower),
        };
        // As of the hosts that are asked for.
        let name = name.strip_suffix('.').unwrap_or(name);
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let is_v6 = !wildcard && name.starts_with('[') && name.ends_with(']');
        if name.is_empty() || !(is_v6 || name.bytes().all(legal)) || name.starts_with('.') {
            return Err(match text.contains(':') && !is_v6 {
                true => format!("`{text}` has a port or a scheme, which hosts are matched without"),
                false => format!("`{text}` is not a host name"),
            });
        }
        Ok(match wildcard {
            true => HostPattern::Wildcard(format!(".{name}").into()),
            false => HostPattern::Exact(name.into()),
        })
    }
}

/// The name in a Host field or an authority: without its port, and without the dot at its end.
pub fn name(authority: &str) -> &str {
    let name = match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => authority,
    };
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_lose_port_and_dot() {
        for (from, to) in
            [("a.b", "a.b"), ("a.b:80", "a.b"), ("a.b.", "a.b"), ("a.b.:8", "a.b"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("", "")]
        {
            assert_eq!(name(from), to);
        }
    }

    #[test]
    fn patterns() {
        assert_eq!(HostPattern::parse("API.example"), Ok(HostPattern::Exact("api.example".into())));
        assert_eq!(HostPattern::parse("api.example."), Ok(HostPattern::Exact("api.example".into())));
        assert_eq!(HostPattern::parse("*.Example.com"), Ok(HostPattern::Wildcard(".example.com".into())));
        for bad in ["", "*", "*.", "a:80", "http://a", "a/b", "*a.com", ".com", "a.*"] {
            assert!(HostPattern::parse(bad).is_err(), "{bad}");
        }
    }
}
