//! Texts with `${…}` of a request in them: compiled at load, encoded for where they go.

use super::body::is_json_type;
use super::json::write_text;
use super::path::Path;
use crate::config::shape::nearest;
use http::HeaderName;
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::borrow::Cow;

/// All but the unreserved characters of RFC 3986, 2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What to do about a name that is not known.
pub const FIX: &str =
    "name one of route, identity, claim.NAME, client_ip, request_id, host, path, rest, query.NAME, header.NAME or a `{name}` of the path";

/// Something of a request that a template may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    Route,
    ClientIp,
    /// Who was recognised.
    Identity,
    /// What is known of them, by its path.
    Claim(Box<str>),
    RequestId,
    Host,
    Path,
    /// What `*` took.
    Rest,
    Query(Box<str>),
    Header(HeaderName),
    /// The path pattern's capture of that number.
    Capture(usize),
    /// Something of the answer to a call, by the call's place.
    Call(usize, Part),
    /// What stands at a path of the item that a call is made for.
    Item(Path),
    /// What stands at a path of the request's JSON body.
    Body(Path),
}

/// A part of the answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Body(Path),
    Status,
    Header(HeaderName),
}

/// A value, and whether it is percent-encoded already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Plain(Cow<'a, str>),
    /// A part of a path: encoded, and with slashes between its segments.
    Path(Cow<'a, str>),
    /// Several, which commas part.
    List(Vec<String>),
}

/// Where the values of one request come from.
pub trait Values {
    fn value(&self, variable: &Variable) -> Value<'_>;

    /// Writes a value as JSON: with its type, where it has one.
    fn json(&self, variable: &Variable, out: &mut Vec<u8>) {
        write_plain(&self.value(variable), out);
    }
}

/// Writes a value as a JSON text.
pub fn write_plain(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Plain(text) => write_text(text, out),
        Value::Path(path) => write_text(&decode(path), out),
        Value::List(items) => write_text(&items.join(","), out),
    }
}

/// Where a text goes, which says how values are encoded in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A path, or the part of a URL before its query.
    Path,
    /// The value of a query parameter.
    Query,
    /// A header field: control characters are percent-encoded.
    Header,
    /// A body: as it is.
    Body,
    /// A text within a JSON body: without what would end it.
    Json,
    /// Text or a quoted attribute of HTML or XML: what is a mark there becomes an entity.
    Markup,
}

impl Target {
    /// A body of that Content-Type.
    pub fn of_body(kind: &[u8]) -> Target {
        let name = kind.split(|b| *b == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
        match &*name {
            _ if is_json_type(&name) => Target::Json,
            b"text/html" | b"text/xml" | b"application/xml" => Target::Markup,
            name if name.ends_with(b"+xml") => Target::Markup,
            _ => Target::Body,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Value(Variable),
}

/// A compiled text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Piece>,
}

/// What a pattern gives to the templates of its route.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names<'a> {
    pub captures: &'a [&'a str],
    pub has_rest: bool,
    /// Calls whose answers may be named.
    pub calls: &'a [&'a str],
    /// `${item}` is something.
    pub has_item: bool,
    /// `${body}` is something.
    pub has_body: bool,
}

/// Words that templates begin with, which a call can't be named.
pub const TAKEN: &[&str] =
    &["route", "client_ip", "identity", "claim", "request_id", "host", "path", "rest", "query", "header", "item", "body"];

impl Template {
    /// Compiles `text`. `$${` is a literal `${`.
    ///
    /// # Errors
    /// Names what is not known.
    pub fn parse(text: &str, names: Names<'_>) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(begin) = rest.find("${") {
            if rest[..begin].ends_with('$') {
                literal.push_str(&rest[..begin]);
                literal.push('{');
                rest = &rest[begin + 2..];
                continue;
            }
            let end = rest[begin..].find('}').map(|end| begin + end).ok_or_else(|| format!("`{}` is not closed", &rest[begin..]))?;
            literal.push_str(&rest[..begin]);
            if !literal.is_empty() {
                parts.push(Piece::Text(std::mem::take(&mut literal).into()));
            }
            parts.push(Piece::Value(variable(&rest[begin + 2..end], names)?));
            rest = &rest[end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Piece::Text(literal.into()));
        }
        Ok(Template { parts })
    }

    /// What it consists of, when that is one value and nothing else.
    pub fn only(&self) -> Option<&Variable> {
        match &self.parts[..] {
            [Piece::Value(variable)] => Some(variable),
            _ => None,
        }
    }

    /// What is put into it.
    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.parts.iter().filter_map(|part| match part {
            Piece::Text(_) => None,
            Piece::Value(variable) => Some(variable),
        })
    }

    /// The text itself, when there is nothing to put in.
    pub fn literal(&self) -> Option<&str> {
        match &self.parts[..] {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The whole text for one request. `target` is for the part before a `?`; what is behind one is a query.
    pub fn render(&self, values: &dyn Values, mut target: Target) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Piece::Text(text) => {
                    out.push_str(text);
                    if target == Target::Path && text.contains('?') {
                        target = Target::Query;
                    }
                }
                Piece::Value(variable) => encode(&values.value(variable), target, &mut out),
            }
        }
        out
    }

    /// The text before the first value.
    pub fn lead(&self) -> &str {
        match self.parts.first() {
            Some(Piece::Text(text)) => text,
            _ => "",
        }
    }

    /// The same with its literal parts encoded, as its values will be: the value of a query parameter.
    pub fn encoded(mut self) -> Template {
        for part in &mut self.parts {
            if let Piece::Text(text) = part {
                *text = encode_parameter(text).into();
            }
        }
        self
    }

    /// Its literal parts.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Piece::Text(text) => Some(&**text),
            Piece::Value(_) => None,
        })
    }

    /// Whether a literal part has `needle`.
    pub fn text_contains(&self, needle: char) -> bool {
        self.texts().any(|text| text.contains(needle))
    }
}

fn variable(name: &str, names: Names<'_>) -> Result<Variable, String> {
    if let Some(at) = names.captures.iter().position(|known| *known == name) {
        return Ok(Variable::Capture(at));
    }
    Ok(match (name, name.split_once('.')) {
        ("route", _) => Variable::Route,
        ("client_ip", _) => Variable::ClientIp,
        ("identity", _) => Variable::Identity,
        (_, Some(("claim", path))) if !path.is_empty() => Variable::Claim(path.into()),
        ("request_id", _) => Variable::RequestId,
        ("host", _) => Variable::Host,
        ("path", _) => Variable::Path,
        ("rest", _) if names.has_rest => Variable::Rest,
        ("rest", _) => return Err("`${rest}` needs a path that ends in `*`".to_string()),
        (_, Some(("query", parameter))) if !parameter.is_empty() => Variable::Query(parameter.into()),
        (_, Some(("header", field))) => Variable::Header(header(field)?),
        ("item", _) if names.has_item => Variable::Item(Path::default()),
        (_, Some(("item", path))) if names.has_item => Variable::Item(Path::parse(path)?),
        ("body", _) if names.has_body => Variable::Body(Path::default()),
        (_, Some(("body", path))) if names.has_body => Variable::Body(Path::parse(path)?),
        (_, Some((call, part))) if names.calls.contains(&call) => {
            let at = names.calls.iter().position(|known| *known == call).unwrap_or_default();
            Variable::Call(at, self::part(name, part)?)
        }
        (call, None) if names.calls.contains(&call) => return part(call, "").map(|part| Variable::Call(0, part)),
        (_, Some((call, part))) => {
            let meant = nearest(call, names.calls).map_or(String::new(), |meant| format!(": did you mean `${{{meant}.{part}}}`?"));
            return Err(format!("`${{{name}}}` is not known here{meant}"));
        }
        _ => return Err(format!("`${{{name}}}` is not known here")),
    })
}

/// What of a call's answer is meant.
fn part(name: &str, part: &str) -> Result<Part, String> {
    match (part, part.split_once('.')) {
        ("body", _) => Ok(Part::Body(Path::default())),
        ("status", _) => Ok(Part::Status),
        (_, Some(("body", path))) => Path::parse(path).map(Part::Body),
        (_, Some(("header", field))) => header(field).map(Part::Header),
        _ => Err(format!("`${{{name}}}` names no part of an answer: `.body`, `.body.PATH`, `.status` and `.header.NAME` are known")),
    }
}

fn header(field: &str) -> Result<HeaderName, String> {
    field.parse().map_err(|_| format!("`{field}` is not a header's name"))
}

fn encode(value: &Value<'_>, target: Target, out: &mut String) {
    match (value, target) {
        (Value::List(items), _) => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                encode(&Value::Plain(item.into()), target, out);
            }
        }
        (Value::Path(path), Target::Path) | (Value::Plain(path), Target::Body) => out.push_str(path),
        (Value::Path(path), _) => encode(&Value::Plain(decode(path)), target, out),
        (Value::Plain(text), Target::Path | Target::Query) => out.extend(utf8_percent_encode(text, RESERVED)),
        (Value::Plain(text), Target::Header) => out.extend(utf8_percent_encode(text, CONTROLS)),
        (Value::Plain(text), Target::Json) => {
            let mut quoted = Vec::with_capacity(text.len() + 2);
            write_text(text, &mut quoted);
            // The quotes are the template's own.
            let bare = quoted.get(1..quoted.len() - 1).and_then(|bare| std::str::from_utf8(bare).ok());
            out.push_str(bare.unwrap_or_default());
        }
        (Value::Plain(text), Target::Markup) => text.chars().for_each(|c| match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }),
    }
}

/// Percent-decodes; what is not UTF-8 behind it becomes replacement characters.
pub fn decode(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

/// A name or a value of a query, as it was meant: percent-decoded, and `+` is a space.
pub fn decode_parameter(text: &str) -> Cow<'_, str> {
    match text.contains('+') {
        true => Cow::Owned(decode(&text.replace('+', " ")).into_owned()),
        false => decode(text),
    }
}

/// A name or a value, as it stands in a query.
pub fn encode_parameter(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Fixed;
    impl Values for Fixed {
        fn value(&self, variable: &Variable) -> Value<'_> {
            match variable {
                Variable::Rest => Value::Path("a%2Fb/c d".into()),
                Variable::Capture(0) => Value::Path("x%2Fy".into()),
                Variable::Query(name) => Value::Plain(format!("<{name}>&\r\n").into()),
                _ => Value::Plain("v/é".into()),
            }
        }
    }

    fn render(text: &str, target: Target) -> String {
        let names = Names { captures: &["id"], has_rest: true, ..Default::default() };
        Template::parse(text, names).expect("a template").render(&Fixed, target)
    }

    #[test]
    fn values_are_encoded_for_where_they_go() {
        assert_eq!(render("/n/${rest}?o=${rest}&i=${id}", Target::Path), "/n/a%2Fb/c d?o=a%2Fb%2Fc%20d&i=x%2Fy");
        assert_eq!(render("/u/${host}", Target::Path), "/u/v%2F%C3%A9");
        assert_eq!(render("id=${id} q=${query.q}", Target::Header), "id=x/y q=<q>&%0D%0A");
        assert_eq!(render("$${id} ${host}", Target::Body), "${id} v/é");
        assert_eq!(render("<b>${query.\"'}</b>", Target::Markup), "<b>&lt;&quot;&#39;&gt;&amp;\r\n</b>");
        assert_eq!(render("\"${query.\"'}${id}\"", Target::Json), "\"<\\\"'>&\\r\\nx/y\"");
    }

    #[test]
    fn the_type_of_a_body_says_how_values_are_escaped() {
        for (kind, target) in [
            ("application/json", Target::Json),
            ("Application/Problem+JSON; charset=utf-8", Target::Json),
            ("text/html;charset=utf-8", Target::Markup),
            ("image/svg+xml", Target::Markup),
            ("text/xml", Target::Markup),
            ("text/plain", Target::Body),
            ("", Target::Body),
        ] {
            assert_eq!(Target::of_body(kind.as_bytes()), target, "{kind}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for bad in ["${nope}", "${rest}", "${id", "${}", "${header.a b}", "${query.}"] {
            assert!(Template::parse(bad, Names::default()).is_err(), "{bad}");
        }
        assert_eq!(Template::parse("plain", Names::default()).expect("a template").literal(), Some("plain"));
    }

    /// Answers everything with what a client has sent.
    struct Client(String);
    impl Values for Client {
        fn value(&self, _: &Variable) -> Value<'_> {
            Value::Plain(self.0.as_str().into())
        }
    }

    proptest! {
        /// Whatever is put in, it ends no header line, no segment and no parameter.
        #[test]
        fn a_value_stays_in_its_place(value in any::<String>()) {
            let client = Client(value);
            let render = |text: &str, target| Template::parse(text, Names::default()).expect("a template").render(&client, target);
            let field = http::HeaderValue::try_from(render("a ${query.q} b", Target::Header));
            prop_assert!(field.is_ok_and(|field| !field.as_bytes().iter().any(u8::is_ascii_control)));
            let target = render("/a/${query.q}/b?c=${query.q}&d=1", Target::Path);
            let (path, query) = target.split_once('?').expect("a query");
            prop_assert!(path.split('/').count() == 4 && query.split('&').count() == 2 && !target.contains('#'));
            let json: serde_json::Value = serde_json::from_str(&render("[\"a\",\"${query.q}\"]", Target::Json)).expect("JSON");
            prop_assert_eq!(json, serde_json::json!(["a", client.0]));
            let markup = render("${query.q}", Target::Markup);
            prop_assert!(!markup.contains(['<', '>', '"', '\'']));
        }

        #[test]
        fn parsing_never_panics_and_literals_stay(text in "[a-z${}.é]{0,30}") {
            if let Ok(template) = Template::parse(&text, Names::default())
                && !text.contains('$') {
                    prop_assert_eq!(template.literal(), Some(&*text));
                }
        }
    }
}
