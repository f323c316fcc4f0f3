//! The target that a service gets: another path, other parameters.

use super::template::{FIX, Names, Target, Template, Values, Variable, decode_parameter, encode_parameter};
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw;
use crate::config::secret::{Hidden, MASK, is_credential};

/// Compiled changes of path and query.
#[derive(Debug)]
pub struct Rewrite {
    path: Option<Template>,
    /// Parameters that go on; all when `None`.
    keep: Option<Vec<String>>,
    /// Those that don't, among them the ones that are set.
    remove: Vec<String>,
    /// Names as they come, and as they are written.
    rename: Vec<(String, String)>,
    /// Names as they are written, and values.
    set: Vec<(String, Template)>,
}

impl Rewrite {
    /// The outer `None` means that a problem was reported, the inner one that nothing changes.
    pub fn build(raw: &raw::RequestChanges, names: Names<'_>, at: &At<'_>, problems: &Problems) -> Option<Option<Rewrite>> {
        let path = raw.path.as_ref().map(|text| path(text, names, &at.key("path"), problems));
        let (query_at, query) = (at.key("query"), &raw.query);
        let set_at = query_at.key("set");
        let set = query.set.0.iter().map(|(name, text)| {
            let template = problems.ok(Template::parse(text, names), &set_at.key(name), "the parameter would have no value", FIX);
            template.map(|template| (encode_parameter(name), template.encoded()))
        });
        let set: Vec<_> = set.collect();
        let rewrite = Rewrite {
            path: path.map_or(Some(None), |path| path.map(Some))?,
            keep: query.keep.clone(),
            remove: query.remove.iter().chain(query.set.0.iter().map(|(name, _)| name)).cloned().collect(),
            rename: query.rename.0.iter().map(|(from, to)| (from.clone(), encode_parameter(to))).collect(),
            set: set.into_iter().collect::<Option<_>>()?,
        };
        Some((rewrite.path.is_some() || rewrite.has_query_changes()).then_some(rewrite))
    }

    /// A target of its making for people: without the credentials that it sets.
    pub fn shown(&self, target: &str, hidden: &Hidden) -> String {
        let Some((path, query)) = target.split_once('?') else { return target.to_string() };
        let is_set = |name: &str| self.set.iter().any(|(own, _)| own == name);
        let pair = |pair: &str| match pair.split_once('=') {
            // Of what is hidden only the encoded form is there.
            Some((name, value)) if is_set(name) && (is_credential(&decode_parameter(name)) || hidden.is_in(&decode_parameter(value))) => {
                format!("{name}={MASK}")
            }
            _ => pair.to_string(),
        };
        format!("{path}?{}", query.split('&').map(pair).collect::<Vec<_>>().join("&"))
    }

    /// What is put into the target.
    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.path.iter().chain(self.set.iter().map(|(_, template)| template)).flat_map(Template::variables)
    }

    fn has_query_changes(&self) -> bool {
        self.keep.is_some() || !self.remove.is_empty() || !self.rename.is_empty()
    }

    /// What becomes of a target. `None` when the path has a dot segment, which a client has put together: a service would read
    /// it as a way out of the folder that the route leads to.
    pub fn target(&self, path: &str, query: Option<&str>, values: &dyn Values) -> Option<String> {
        let mut target = match &self.path {
            None => path.to_string(),
            Some(template) => template.render(values, Target::Path),
        };
        // "/" and a value that begins with a slash would name a host.
        if target.starts_with("//") && self.path.is_some() {
            target = format!("/{}", target.trim_start_matches('/'));
        }
        if target.split('/').any(|segment| matches!(segment, "." | "..")) {
            return None;
        }
        if !self.has_query_changes() {
            if let Some(query) = query {
                target.push('?');
                target.push_str(query);
            }
            return Some(target);
        }
        let mut separator = '?';
        let mut push = |name: &str, value: Option<&str>| {
            target.push(separator);
            target.push_str(name);
            if let Some(value) = value {
                target.push('=');
                target.push_str(value);
            }
            separator = '&';
        };
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (raw, value) = pair.split_once('=').map_or((pair, None), |(name, value)| (name, Some(value)));
            let name = decode_parameter(raw);
            if self.keep.as_ref().is_some_and(|keep| !keep.iter().any(|kept| *kept == name)) || self.remove.iter().any(|gone| *gone == name)
            {
                continue;
            }
            let renamed = self.rename.iter().find(|(from, _)| *from == name);
            push(renamed.map_or(raw, |(_, to)| to), value);
        }
        for (name, template) in &self.set {
            push(name, Some(&template.render(values, Target::Query)));
        }
        Some(target)
    }
}

fn path(text: &str, names: Names<'_>, at: &At<'_>, problems: &Problems) -> Option<Template> {
    let template = problems.ok(Template::parse(&dollars(text), names), at, "the path would have no value", FIX)?;
    let fix = "begin it with `/` or `${path}`, and write only what may stand in a path";
    if !template.lead().starts_with('/') && !text.starts_with("${path}") {
        return problems.at(at, format!("the path `{text}` does not begin with a slash"), "a service could not read it", fix);
    }
    if template.text_contains('?') || template.text_contains('#') {
        let why = "the request's own parameters are sent on behind it";
        return problems.at(at, format!("the path `{text}` has a query or a fragment"), why, "write parameters into `query: { set: … }`");
    }
    let is_illegal = |c: char| !c.is_ascii_graphic() || "\"<>\\^`{|}".contains(c);
    if template.texts().any(|text| text.contains(is_illegal)) || text.split('/').any(|segment| matches!(segment, "." | "..")) {
        let what = format!("the path `{text}` has dot segments, or characters that can't stand in a path");
        return problems.at(at, what, "a service could not read it, or not as it was meant", fix);
    }
    Some(template)
}

/// `{id}` as `${id}`: a bare brace can't stand in a path.
fn dollars(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c == '{' && !out.ends_with('$') {
            out.push('$');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::shape::Named;
    use crate::shape::template::{Value, Variable};

    /// `${id}` is the first capture, `${rest}` what is left; a parameter's value is its name with something to encode.
    struct Fixed(&'static str, &'static str);
    impl Values for Fixed {
        fn value(&self, variable: &Variable) -> Value<'_> {
            match variable {
                Variable::Capture(_) => Value::Path(self.0.into()),
                Variable::Rest => Value::Path(self.1.into()),
                Variable::Query(name) => Value::Plain(format!("{name} & é").into()),
                Variable::Path => Value::Path("/was/here".into()),
                _ => Value::Plain("..".into()),
            }
        }
    }

    fn named(pairs: &[(&str, &str)]) -> Named<raw::Text> {
        Named(pairs.iter().map(|(name, text)| (name.to_string(), raw::Text(text.to_string()))).collect())
    }

    fn build(path: Option<&str>, query: raw::QueryChanges) -> Option<Rewrite> {
        let raw = raw::RequestChanges { path: path.map(|path| raw::Text(path.to_string())), query, ..Default::default() };
        let problems = Problems::default();
        let built = Rewrite::build(&raw, Names { captures: &["id"], has_rest: true, ..Default::default() }, &At::root(), &problems);
        assert_eq!(built.is_none(), !problems.is_empty());
        built.flatten()
    }

    #[test]
    fn paths() {
        for (path, target) in [
            ("/v2/orders/${id}", Some("/v2/orders/a%2Fb?x=1")),
            ("/v2/orders/{id}", Some("/v2/orders/a%2Fb?x=1")),
            ("/{rest}", Some("/p/q?x=1")),
            ("/n/${query.q}", Some("/n/q%20%26%20%C3%A9?x=1")),
            ("${path}/more", Some("/was/here/more?x=1")),
            ("/${path}", Some("/was/here?x=1")),
            ("/files/${host}", None),
            ("/files/.${header.x}", Some("/files/...?x=1")),
        ] {
            let rewrite = build(Some(path), raw::QueryChanges::default()).expect(path);
            assert_eq!(rewrite.target("/orders/7", Some("x=1"), &Fixed("a%2Fb", "p/q")).as_deref(), target, "{path}");
        }
        for path in ["orders", "{id}", "/a?b", "/a#b", "/a b", "/é", "/a/../b", "/{nope}", "/a{", "/$${id}"] {
            assert!(build(Some(path), raw::QueryChanges::default()).is_none(), "{path}");
        }
    }

    #[test]
    fn parameters() {
        let list = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let set = named(&[("src", "a gw"), ("n m", "${query.q}")]);
        let all = raw::QueryChanges { keep: None, remove: list(&["b"]), rename: Named(vec![("c".to_string(), "d e".to_string())]), set };
        let keep = raw::QueryChanges { keep: Some(list(&["a", "c"])), ..Default::default() };
        let remove = raw::QueryChanges { remove: list(&["a b"]), ..Default::default() };
        for (changes, query, target) in [
            (&all, Some("a=%20+&b=1&c=2&src=client&b&e"), "/p?a=%20+&d%20e=2&e&src=a%20gw&n%20m=q%20%26%20%C3%A9"),
            (&all, None, "/p?src=a%20gw&n%20m=q%20%26%20%C3%A9"),
            (&keep, Some("a=1&b=2&%63=3&&a=4"), "/p?a=1&%63=3&a=4"),
            (&remove, Some("a+b=1&a%20b=2&a%2Bb=3"), "/p?a%2Bb=3"),
            (&remove, Some("a+b"), "/p"),
        ] {
            let rewrite = build(None, changes.clone()).expect("changes");
            assert_eq!(rewrite.target("/p", query, &Fixed("", "")).as_deref(), Some(target), "{query:?}");
        }
        assert!(build(None, raw::QueryChanges::default()).is_none());
    }
}
