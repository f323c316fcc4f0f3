//! Whatever a template says and whatever is put in, a value stays in its place.
#![no_main]

use frontdesk::shape::template::{Names, Target, Template, Value, Values, Variable};
use http::HeaderValue;
use libfuzzer_sys::fuzz_target;

/// Answers everything with what a client has sent.
struct Client<'a>(&'a str);
impl Values for Client<'_> {
    fn value(&self, _: &Variable) -> Value<'_> {
        Value::Plain(self.0.into())
    }
}

const FIXED: &str = "/a/${query.q}/b?c=${query.q}&d=1";

fuzz_target!(|bytes: &[u8]| {
    // The first line is a template.
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (text, value) = text.split_once('\n').unwrap_or((text, ""));
    let names = Names { captures: &["id"], has_rest: true, calls: &["call"], has_item: true, has_body: true };
    let client = Client(value);
    if let Ok(template) = Template::parse(text, names) {
        for target in [Target::Path, Target::Query, Target::Header, Target::Body] {
            let made = template.render(&client, target);
            assert!(made.len() <= text.len() * (1 + 3 * value.len()));
        }
        let made = template.render(&client, Target::Header);
        assert!(template.texts().any(|text| HeaderValue::from_str(text).is_err()) || HeaderValue::try_from(made).is_ok());
    }
    let target = Template::parse(FIXED, names).expect("a template").render(&client, Target::Path);
    let (path, query) = target.split_once('?').expect("a query");
    assert!(path.split('/').count() == 4 && query.split('&').count() == 2 && !target.contains('#'), "{target}");
});
