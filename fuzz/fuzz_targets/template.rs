//! Whatever a template is and whatever a client puts into it: nothing gets out of the place that it was put into.
#![no_main]

use frontdesk::shape::template::{Names, Target, Template, Value, Values, Variable};
use http::{HeaderValue, Uri};
use libfuzzer_sys::fuzz_target;

/// A client's text in place of every name.
struct Client<'a>(&'a str);
impl Values for Client<'_> {
    fn value(&self, variable: &Variable) -> Value<'_> {
        match variable {
            Variable::Call(..) => Value::List(vec![self.0.to_string(), self.0.to_string()]),
            _ => Value::Plain(self.0.into()),
        }
    }
}

const NAMES: Names<'_> = Names { captures: &["id"], has_rest: true, calls: &["a"], has_item: true, has_body: true };

fuzz_target!(|input: (&str, &str)| {
    let (text, value) = input;
    if let Ok(template) = Template::parse(text, NAMES) {
        for target in [Target::Path, Target::Query, Target::Header, Target::Body] {
            let rendered = template.render(&Client(value), target);
            assert!(template.texts().all(|literal| rendered.contains(literal)));
        }
    }
    let around = Template::parse("/a/${path}/b?c=${query.x}&d=${a.body.y}", NAMES).expect("a template");
    let target = around.render(&Client(value), Target::Path);
    assert!(target.parse::<Uri>().is_ok_and(|uri| uri.path().matches('/').count() == 3 && uri.query().is_some_and(|q| q.matches('&').count() == 1)));
    let field = around.render(&Client(value), Target::Header);
    assert!(HeaderValue::from_str(&field).is_ok() || !value.is_ascii());
    assert!(!field.bytes().any(|byte| byte.is_ascii_control()));
    let mut out = Vec::new();
    Client(value).json(&Variable::Path, &mut out);
    assert_eq!(serde_json::from_slice::<String>(&out).ok().as_deref(), Some(value));
});
