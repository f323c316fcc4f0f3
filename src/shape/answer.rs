//! Answers that the gateway gives by itself: `respond` and `redirect`.

use super::headers::HeaderEdits;
use super::template::{Names, Target, Template, Values};
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw;
use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;

/// What a body is of which nothing else is said.
const TEXT: &str = "text/plain; charset=utf-8";

/// A fixed answer.
#[derive(Debug)]
pub struct Respond {
    pub status: StatusCode,
    pub headers: HeaderEdits,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Fixed(Bytes),
    Template(Template),
}

impl Respond {
    /// `None` means that a problem was reported.
    pub fn build(raw: &raw::Respond, names: Names<'_>, at: &At<'_>, problems: &Problems) -> Option<Respond> {
        let mut changes = raw::HeaderChanges { set: raw.headers.clone(), ..Default::default() };
        if !raw.body.is_empty() && !raw.headers.0.iter().any(|(name, _)| name.eq_ignore_ascii_case(CONTENT_TYPE.as_str())) {
            // A browser would guess, and could take what a client put in for a page.
            changes.set.0.push((CONTENT_TYPE.to_string(), raw::Text(TEXT.to_string())));
        }
        let headers = HeaderEdits::build(&changes, names, at, problems);
        let template = template(&raw.body, names, &at.key("body"), problems)?;
        let body = match template.literal() {
            Some(text) => Body::Fixed(Bytes::copy_from_slice(text.as_bytes())),
            None => Body::Template(template),
        };
        let status = u16::try_from(raw.status.0).ok().and_then(|code| StatusCode::from_u16(code).ok())?;
        if !raw.body.is_empty() && matches!(status.as_u16(), 204 | 205 | 304) {
            let fix = "remove the body, or use another status";
            return problems.at(&at.key("body"), format!("{} has no body", status.as_u16()), "RFC 9110, 15 leaves no room for one", fix);
        }
        Some(Respond { status, headers: headers?, body })
    }

    /// The body, of that Content-Type, which says how values are escaped.
    pub fn body(&self, kind: &[u8], values: &dyn Values) -> Bytes {
        match &self.body {
            Body::Fixed(bytes) => bytes.clone(),
            Body::Template(template) => template.render(values, Target::of_body(kind)).into(),
        }
    }
}

/// A redirect to another place.
#[derive(Debug)]
pub struct Redirect {
    pub status: StatusCode,
    to: Template,
}

impl Redirect {
    /// `None` means that a problem was reported.
    pub fn build(raw: &raw::Redirect, names: Names<'_>, at: &At<'_>, problems: &Problems) -> Option<Redirect> {
        let status = match raw.status {
            raw::RedirectStatus::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
            raw::RedirectStatus::Found => StatusCode::FOUND,
            raw::RedirectStatus::SeeOther => StatusCode::SEE_OTHER,
            raw::RedirectStatus::TemporaryRedirect => StatusCode::TEMPORARY_REDIRECT,
            raw::RedirectStatus::PermanentRedirect => StatusCode::PERMANENT_REDIRECT,
        };
        let at = at.key("to");
        let to = template(&raw.to, names, &at, problems)?;
        // A target that begins with a client's text could lead anywhere.
        let lead = to.lead();
        let is_anchored = (lead.starts_with('/') && !lead.starts_with("//") && lead != "/\\")
            || ["http://", "https://"].iter().any(|scheme| lead.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
            || raw.to.starts_with("https://${host}")
            || raw.to.starts_with("http://${host}");
        if !is_anchored {
            let fix = "begin it with `/`, `https://host` or `https://${host}`";
            return problems.at(
                &at,
                format!("`{}` is neither a path nor a URL", raw.to.0),
                "the client would be sent to a place of its own choice",
                fix,
            );
        }
        Some(Redirect { status, to })
    }

    /// The Location for one request, with its query unless `to` has one.
    pub fn location(&self, values: &dyn Values, query: Option<&str>) -> String {
        let mut location = self.to.render(values, Target::Path);
        // "/" and a `${rest}` that begins with a slash would make "//host".
        if location.starts_with("//") {
            location = format!("/{}", location.trim_start_matches('/'));
        }
        if let Some(query) = query {
            // Before the fragment (RFC 3986, 3), which may have a question mark of its own. None of the values brings either.
            let end = location.find('#').unwrap_or(location.len());
            if !location[..end].contains('?') {
                location.insert_str(end, &format!("?{query}"));
            }
        }
        location
    }
}

fn template(text: &str, names: Names<'_>, at: &At<'_>, problems: &Problems) -> Option<Template> {
    problems.ok(Template::parse(text, names), at, "it would have no value", super::template::FIX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::template::{Value, Variable};

    struct Rest(&'static str);
    impl Values for Rest {
        fn value(&self, variable: &Variable) -> Value<'_> {
            match variable {
                Variable::Host => Value::Plain("h.example".into()),
                _ => Value::Path(self.0.into()),
            }
        }
    }

    fn redirect(to: &str) -> Option<Redirect> {
        let raw = raw::Redirect { status: raw::RedirectStatus::Found, to: raw::Text(to.to_string()) };
        Redirect::build(&raw, Names { captures: &[], has_rest: true, ..Default::default() }, &At::root(), &Problems::default())
    }

    #[test]
    fn redirects_keep_the_query_unless_they_have_one() {
        for (to, rest, query, location) in [
            ("/new/${rest}", "a/b", Some("x=1"), "/new/a/b?x=1"),
            ("/new/${rest}?y=2", "a", Some("x=1"), "/new/a?y=2"),
            ("https://${host}${path}", "/p", None, "https://h.example/p"),
            ("/${rest}", "/evil.example", None, "/evil.example"),
            ("/new/${rest}#top", "a", Some("x=1"), "/new/a?x=1#top"),
            ("/new/${rest}#a?b", "a", Some("x=1"), "/new/a?x=1#a?b"),
            ("/new?y=2#${rest}", "a", Some("x=1"), "/new?y=2#a"),
        ] {
            assert_eq!(redirect(to).expect("a redirect").location(&Rest(rest), query), location);
        }
    }

    #[test]
    fn redirects_lead_to_no_place_of_the_clients_choice() {
        for to in ["${rest}", "//${rest}", "https://${rest}", "javascript:1", "new"] {
            assert!(redirect(to).is_none(), "{to}");
        }
    }

    #[test]
    fn a_status_without_a_body_has_none() {
        let raw = raw::Respond { status: crate::config::shape::Number(204), headers: Default::default(), body: raw::Text("x".to_string()) };
        assert!(Respond::build(&raw, Names::default(), &At::root(), &Problems::default()).is_none());
    }
}
