//! What a route may ask of header fields and query parameters, beside host, path and method.

use super::expression::Expression;
use super::normalize::hex;
use http::header::COOKIE;
use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

/// What a value has to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Test {
    Is(Box<str>),
    /// The whole of it.
    Matches(Expression),
    /// Any value, even an empty one.
    Present,
}

/// Asks for a header field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    pub name: HeaderName,
    pub test: Test,
}

/// Asks for a query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Parameter {
    /// Decoded.
    pub name: Box<str>,
    pub test: Test,
}

/// Room for a value that has to be put together, so that most take no allocation.
type Buffer = SmallVec<[u8; 256]>;

impl Test {
    fn passes(&self, value: &[u8]) -> bool {
        match self {
            Test::Is(wanted) => wanted.as_bytes() == value,
            Test::Matches(expression) => expression.is_match(value),
            Test::Present => true,
        }
    }
}

impl Header {
    /// Several lines of one name are one value, joined by commas (RFC 9110, 5.3; Envoy does the same). Crumbs of a cookie are
    /// joined as RFC 9113, 8.2.3 says.
    pub fn fits(&self, headers: &HeaderMap) -> bool {
        let mut lines = headers.get_all(&self.name).iter();
        let Some(first) = lines.next() else { return false };
        let Some(second) = lines.next() else { return self.test.passes(first.as_bytes()) };
        let separator: &[u8] = if self.name == COOKIE { b"; " } else { b"," };
        let mut joined = Buffer::from_slice(first.as_bytes());
        for line in std::iter::once(second).chain(lines) {
            joined.extend_from_slice(separator);
            joined.extend_from_slice(line.as_bytes());
        }
        self.test.passes(&joined)
    }
}

impl Parameter {
    /// The first parameter of that name counts, as Gateway API recommends and Envoy does.
    pub fn fits(&self, query: &str) -> bool {
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let mut named = pairs.filter(|(name, _)| Decoded::of(name).eq(self.name.bytes()));
        let Some((_, value)) = named.next() else { return false };
        match &self.test {
            Test::Is(wanted) => Decoded::of(value).eq(wanted.bytes()),
            Test::Matches(_) => self.test.passes(&Decoded::of(value).collect::<Buffer>()),
            Test::Present => true,
        }
    }
}

/// The bytes of a name or a value in a query: `%XX` is one, `+` is a space. A `%` without two digits stands for itself.
struct Decoded<'a>(std::slice::Iter<'a, u8>);

impl Decoded<'_> {
    fn of(text: &str) -> Decoded<'_> {
        Decoded(text.as_bytes().iter())
    }
}

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        match self.0.next()? {
            b'+' => Some(b' '),
            b'%' => {
                let digits = self.0.as_slice().first_chunk().and_then(|[high, low]| hex(*high).zip(hex(*low)));
                let Some((high, low)) = digits else { return Some(b'%') };
                self.0.nth(1);
                Some(high << 4 | low)
            }
            plain => Some(*plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(text: &str) -> Test {
        Test::Matches(Expression::parse(text).expect("an expression"))
    }

    #[test]
    fn fields_without_case_and_several_lines_as_one() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-one", "a"), ("x-two", "a"), ("x-two", "b"), ("x-none", ""), ("cookie", "a=1"), ("cookie", "b=2")] {
            headers.append(name, value.parse().expect("a value"));
        }
        for (name, test, fits) in [
            ("X-One", Test::Is("a".into()), true),
            ("X-One", Test::Is("A".into()), false),
            ("x-one", matches("[ab]"), true),
            ("x-one", matches("[ab]+x"), false),
            ("x-two", Test::Is("a".into()), false),
            ("x-two", Test::Is("a,b".into()), true),
            ("x-two", matches("a,.*"), true),
            ("x-none", Test::Present, true),
            ("x-none", Test::Is("".into()), true),
            ("x-other", Test::Present, false),
            ("x-other", Test::Is("".into()), false),
            ("cookie", Test::Is("a=1; b=2".into()), true),
        ] {
            let header = Header { name: name.parse().expect("a name"), test };
            assert_eq!(header.fits(&headers), fits, "{header:?}");
        }
    }

    #[test]
    fn parameters_are_decoded_and_the_first_one_counts() {
        let is = |text: &str| Test::Is(text.into());
        for (query, name, test, fits) in [
            ("v=2", "v", is("2"), true),
            ("v=2&v=1", "v", is("1"), false),
            ("a=1&v=2", "v", is("2"), true),
            ("v", "v", is(""), true),
            ("v=", "v", Test::Present, true),
            ("", "v", Test::Present, false),
            ("V=2", "v", is("2"), false),
            ("%76=%32", "v", is("2"), true),
            ("a+b=c+d%2B", "a b", is("c d+"), true),
            ("v=%C3%A9", "v", is("é"), true),
            ("v=%zz%4", "v", is("%zz%4"), true),
            ("v=a=b", "v", is("a=b"), true),
            ("v=%41bc", "v", matches("A[a-z]+"), true),
            ("v=xA", "v", matches("A"), false),
        ] {
            let parameter = Parameter { name: name.into(), test };
            assert_eq!(parameter.fits(query), fits, "{query} {parameter:?}");
        }
    }
}
