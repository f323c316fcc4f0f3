//! The graph of calls, as the configuration has it.

use super::answer::Answer;
use crate::config::place::At;
use crate::config::problem::{Place, Problem, Problems};
use crate::config::raw;
use crate::shape::headers::HeaderEdits;
use crate::shape::template::{Names, Part, TAKEN, Target, Template, Values, Variable};
use crate::shape::tree::Tree;
use crate::types::fields::is_framing;
use http::{HeaderName, Method, StatusCode};
use serde::Serialize;
use std::time::Duration;

/// What to do about a name that is not known in a call.
const FIX: &str = "name a part of a call's answer, as in `${NAME.body.x}`, or one of route, identity, claim.NAME, client_ip, request_id, \
                   host, path, rest, query.NAME, header.NAME, body.PATH (of the request) or a `{name}` of the path";

/// All that a route's `compose` says.
#[derive(Debug)]
pub struct Plan {
    pub timeout: Duration,
    /// In the order of the file.
    pub calls: Box<[Call]>,
    pub(super) answer: Answer,
    status: Status,
    pub(super) report: bool,
    /// Something names a part of the request's JSON body.
    pub needs_body: bool,
}

/// What the answer's status is.
#[derive(Debug)]
enum Status {
    Fixed(StatusCode),
    Template(Template),
}

/// A call, for people.
#[derive(Debug, Serialize)]
pub struct Shown {
    pub call: String,
    pub asks: String,
    pub service: String,
    /// After which others, and what its failure means.
    pub when: String,
}

/// One call.
#[derive(Debug)]
pub struct Call {
    pub name: Box<str>,
    pub method: Method,
    /// As it was typed, for people.
    asks: Box<str>,
    pub(super) path: Template,
    /// Fields of the client that go along.
    pub(super) passed: Box<[HeaderName]>,
    pub(super) headers: HeaderEdits,
    pub(super) body: Option<Tree>,
    pub rule: Rule,
    pub(super) timeout: Option<Duration>,
    pub(super) each: Option<Each>,
    pub(super) body_bytes_max: u64,
    /// The places of the calls whose answers it uses.
    pub needs: Box<[usize]>,
}

/// What a failure of a call means.
#[derive(Debug)]
pub enum Rule {
    /// The answer fails too; with the service's own answer, if it gave one and that is wanted.
    Required { passes: bool },
    /// The answer is a partial one; this JSON stands for the body.
    Optional { default: Option<Box<str>> },
}

/// A call that is made for each item of a list.
#[derive(Debug)]
pub(super) struct Each {
    pub items: Variable,
    pub items_max: usize,
    pub parallel: usize,
}

impl Plan {
    /// `names` are the route's own. `None` means that a problem was reported.
    pub fn build(raw: &raw::Compose, names: Names<'_>, at: &At<'_>, problems: &Problems) -> Option<Plan> {
        let calls_at = at.key("calls");
        if raw.calls.0.is_empty() {
            return problems.is_sound(&calls_at).then(|| {
                problems.at(
                    &calls_at,
                    "nothing to compose",
                    "there would be no answer to give",
                    "add a call, such as `user: { to: users, path: /user }`",
                )
            })?;
        }
        let known: Vec<&str> = raw.calls.0.iter().map(|(name, _)| name.as_str()).collect();
        let names = Names { calls: &known, has_body: true, ..names };
        let calls: Vec<Option<Call>> =
            raw.calls.0.iter().map(|(name, raw)| call(name, raw.as_ref()?, names, &calls_at.key(name), problems)).collect();
        let answer = Answer::build(raw, names, FIX, at, problems);
        let status = status(&raw.status, names, &at.key("status"), problems);
        let calls: Vec<Call> = calls.into_iter().collect::<Option<_>>()?;
        check_order(&calls, &calls_at, problems)?;
        let plan =
            Plan { timeout: raw.timeout.0, calls: calls.into(), answer: answer?, status: status?, report: raw.report, needs_body: false };
        plan.warn_unused(&calls_at, problems);
        let needs_body = plan.variables().into_iter().any(|variable| matches!(variable, Variable::Body(_)));
        Some(Plan { needs_body, ..plan })
    }

    /// The answer's status; `None` when what was to become one has not.
    pub fn status(&self, values: &dyn Values) -> Option<StatusCode> {
        match &self.status {
            Status::Fixed(status) => Some(*status),
            Status::Template(template) => {
                let code = template.render(values, Target::Body).parse::<u16>().ok().filter(|code| (200..600).contains(code));
                code.and_then(|code| StatusCode::from_u16(code).ok())
            }
        }
    }

    /// The graph, for people; `service` is the name of a call's service.
    pub fn shown(&self, service: impl Fn(usize) -> String) -> Vec<Shown> {
        let shown = |(index, call): (usize, &Call)| Shown {
            call: call.name.to_string(),
            asks: call.asks.to_string(),
            service: service(index),
            when: call.shown(&self.calls),
        };
        self.calls.iter().enumerate().map(shown).collect()
    }

    /// What is put into the calls and the answer.
    pub fn variables(&self) -> Vec<&Variable> {
        let status = match &self.status {
            Status::Fixed(_) => None,
            Status::Template(template) => Some(template.variables()),
        };
        self.calls.iter().flat_map(Call::variables).chain(self.answer.variables()).chain(status.into_iter().flatten()).collect()
    }

    /// A call that only reads, and that nobody reads.
    fn warn_unused(&self, at: &At<'_>, problems: &Problems) {
        let read: Vec<usize> = self.variables().into_iter().filter_map(called).collect();
        for (index, call) in self.calls.iter().enumerate() {
            let is_used = self.answer.uses(index) || read.contains(&index);
            if !is_used && call.method == Method::GET && matches!(call.rule, Rule::Optional { .. }) {
                let what = format!("nothing uses what `{}` finds", call.name);
                problems.warn(&at.key(&call.name), what, "it is asked for nothing", "put it into `body`, or remove it");
            }
        }
    }

    /// Fields of the client that go along.
    pub fn passed(&self) -> impl Iterator<Item = &HeaderName> {
        self.calls.iter().flat_map(|call| &*call.passed)
    }

    /// The names that templates of the answer's fields may use.
    pub fn names(raw: &raw::Compose) -> Vec<&str> {
        raw.calls.0.iter().map(|(name, _)| name.as_str()).collect()
    }
}

impl Call {
    fn variables(&self) -> Vec<&Variable> {
        let body = self.body.iter().flat_map(Tree::variables);
        let each = self.each.iter().map(|each| &each.items);
        self.path.variables().chain(self.headers.variables()).chain(body).chain(each).collect()
    }

    fn shown(&self, calls: &[Call]) -> String {
        let needs: Vec<&str> = self.needs.iter().map(|need| &*calls[*need].name).collect();
        let after = if needs.is_empty() { "at once".to_string() } else { format!("after {}", needs.join(", ")) };
        let each = if self.each.is_some() { ", for each item" } else { "" };
        let rule = match &self.rule {
            Rule::Required { .. } => "required",
            Rule::Optional { default: None } => "optional",
            Rule::Optional { default: Some(_) } => "optional, with a default",
        };
        format!("{after}{each}, {rule}")
    }
}

fn call(name: &str, raw: &raw::Call, names: Names<'_>, at: &At<'_>, problems: &Problems) -> Option<Call> {
    let problem = |what: String, why: &str, fix: &str| problems.add(Problem::new(Place::Key(at.path()), what, why, fix));
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    if name.is_empty() || !name.bytes().all(legal) {
        problem(format!("`{name}` is not a call's name"), "templates name it", "use small letters, digits, `-` and `_`");
    } else if TAKEN.contains(&name) || names.captures.contains(&name) {
        let fix = "give it another name";
        problem(format!("a call named `{name}`"), "templates of a route know that name already", fix);
    }
    let names = Names { has_item: raw.for_each.is_some(), ..names };
    let path = path(&raw.path, names, &at.key("path"), problems);
    let (passed, headers) = fields(&raw.headers, names, at, problems);
    let body_at = at.key("body");
    let body = raw.body.as_ref().map(|body| Tree::build(&body.0, names, FIX, &body_at, problems));
    let rule = rule(raw, at, problems);
    let each = raw.for_each.as_ref().map(|items| each(items, raw, names, &at.key("for_each"), problems));
    let call = Call {
        name: name.into(),
        method: raw.method.0.clone(),
        asks: format!("{} {}", raw.method.0, raw.path.0).into(),
        path: path?,
        passed: passed?,
        headers: headers?,
        body: body.map_or(Some(None), |body| body.map(Some))?,
        rule: rule?,
        timeout: raw.timeout.0,
        each: each.map_or(Some(None), |each| each.map(Some))?,
        body_bytes_max: raw.body_bytes_max.0,
        needs: Box::default(),
    };
    let mut needs: Vec<usize> = call.variables().into_iter().filter_map(called).collect();
    needs.sort_unstable();
    needs.dedup();
    Some(Call { needs: needs.into(), ..call })
}

/// The call that a variable is a part of.
pub(super) fn called(variable: &Variable) -> Option<usize> {
    match variable {
        Variable::Call(call, _) => Some(*call),
        _ => None,
    }
}

fn status(raw: &raw::AnswerStatus, names: Names<'_>, at: &At<'_>, problems: &Problems) -> Option<Status> {
    match raw {
        raw::AnswerStatus::Fixed(status) => StatusCode::from_u16(u16::try_from(status.0).ok()?).ok().map(Status::Fixed),
        raw::AnswerStatus::Template(text) => {
            problems.ok(Template::parse(text, names), at, "the answer would have no status", FIX).map(Status::Template)
        }
    }
}

fn rule(raw: &raw::Call, at: &At<'_>, problems: &Problems) -> Option<Rule> {
    let clash = |key: &str| {
        let why = "without a required call there is no answer to put anything into";
        problems.clash(&at.key(key), &at.key("required"), format!("`{key}` beside `required`"), why, "remove one of the two")
    };
    match (raw.required, raw.optional, &raw.default) {
        (true, true, _) => clash("optional"),
        (true, _, Some(_)) => clash("default"),
        (true, false, None) => Some(Rule::Required { passes: raw.on_error == raw::OnError::Pass }),
        (false, _, default) => {
            // No names: what stands for an answer is the same for everybody.
            let tree =
                |raw: &raw::Json| Tree::build(&raw.0, Names::default(), "write it as it is to be put in", &at.key("default"), problems);
            let default = default.as_ref().map(tree);
            let fixed = default.map_or(Some(None), |tree| tree.map(Some))?.map(|tree| match tree {
                Tree::Fixed(text) => Some(text),
                Tree::Value(_) | Tree::Text(_) | Tree::Object(_) | Tree::List(_) => {
                    let why = "it stands for an answer that did not come";
                    problems.at(&at.key("default"), "a default with values of the request", why, "write it as it is to be put in")
                }
            });
            fixed.map_or(Some(None), |fixed| fixed.map(Some)).map(|default| Rule::Optional { default })
        }
    }
}

fn path(text: &str, names: Names<'_>, at: &At<'_>, problems: &Problems) -> Option<Template> {
    let template = problems.ok(Template::parse(text, names), at, "the service could not be asked", FIX)?;
    if !template.lead().starts_with('/') {
        let fix = "begin it with `/`, as in `/users/${identity}`";
        return problems.at(at, format!("the path `{text}` does not begin with a slash"), "a service could not read it", fix);
    }
    let is_illegal = |c: char| !c.is_ascii_graphic() || "\"<>\\^`{|}#".contains(c);
    if template.texts().any(|text| text.contains(is_illegal)) {
        let what = format!("the path `{text}` has characters that can't stand in one");
        return problems.at(at, what, "a service could not read it", "percent-encode them");
    }
    Some(template)
}

type Fields = (Option<Box<[HeaderName]>>, Option<HeaderEdits>);

fn fields(raw: &raw::CallHeaders, names: Names<'_>, at: &At<'_>, problems: &Problems) -> Fields {
    let headers_at = at.key("headers");
    match raw {
        raw::CallHeaders::Passed(passed) => {
            let name = |(index, name): (usize, &String)| {
                let at = headers_at.index(index);
                let field = name.parse::<HeaderName>().map_err(|_| format!("`{name}` is not a header's name"));
                let field = problems.ok(field, &at, "nothing could be passed on", "use letters, digits and `-`")?;
                match is_framing(&field) {
                    true => problems.at(&at, format!("`{name}` can't be passed on"), "each call has one of its own", "remove it"),
                    false => Some(field),
                }
            };
            let passed: Vec<_> = passed.iter().enumerate().map(name).collect();
            (passed.into_iter().collect(), Some(HeaderEdits::default()))
        }
        raw::CallHeaders::Set(set) => {
            let changes = raw::HeaderChanges { set: set.clone(), ..Default::default() };
            (Some(Box::default()), HeaderEdits::build(&changes, names, at, problems))
        }
    }
}

fn each(text: &str, raw: &raw::Call, names: Names<'_>, at: &At<'_>, problems: &Problems) -> Option<Each> {
    let template = problems.ok(Template::parse(text, Names { has_item: false, ..names }), at, "there would be nothing to ask for", FIX)?;
    let fix = "write one place, such as `${orders.body.items}`";
    match template.only() {
        Some(items @ (Variable::Call(_, Part::Body(_)) | Variable::Body(_))) => {
            Some(Each { items: items.clone(), items_max: raw.items_max.usize(), parallel: raw.parallel.usize() })
        }
        _ => problems.at(at, format!("`{text}` is not a list"), "the call is made for each item of one", fix),
    }
}

/// Calls that wait for each other would wait for ever.
fn check_order(calls: &[Call], at: &At<'_>, problems: &Problems) -> Option<()> {
    let mut is_done = vec![false; calls.len()];
    while let Some(next) = (0..calls.len()).find(|call| !is_done[*call] && calls[*call].needs.iter().all(|need| is_done[*need])) {
        is_done[next] = true;
    }
    let Some(first) = is_done.iter().position(|done| !done) else { return Some(()) };
    // Each of those that are left needs another of them, so that the way leads into a circle.
    let mut way = vec![first];
    let circle = loop {
        let last = *way.last()?;
        let next = *calls[last].needs.iter().find(|need| !is_done[**need])?;
        if let Some(begin) = way.iter().position(|seen| *seen == next) {
            break way.split_off(begin);
        }
        way.push(next);
    };
    let begin = *circle.first()?;
    let names: Vec<&str> = circle.iter().chain([&begin]).map(|call| &*calls[*call].name).collect();
    let what = match circle.len() {
        1 => format!("`{}` needs its own answer", names[0]),
        _ => format!("calls that wait for each other: {}", names.join(" needs ")),
    };
    problems.at(&at.key(&calls[begin].name), what, "none of them could ever be made", "let one of them do without the others' answers")
}
