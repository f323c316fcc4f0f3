//! The contract's matching once more, as slow and plain as it reads: all routes that take a request, sorted, the first. The table is
//! held against it on random routes and requests. Nothing of the table's own code decides here.

use super::criteria::Test;
use super::explain::{Candidate, Verdict};
use super::host::HostPattern;
use super::pattern::Segment;
use super::testing::{Request, rules, shown};
use super::{PathRule, Rule, Table, shadow};
use http::Method;
use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::BTreeSet;

fn covers(pattern: &HostPattern, host: &str) -> bool {
    let host = host.to_lowercase();
    match pattern {
        HostPattern::Any => true,
        HostPattern::Exact(name) => host == **name,
        HostPattern::Wildcard(suffix) => host.strip_suffix(&**suffix).is_some_and(|label| !label.is_empty()),
    }
}

/// What is captured, in order, when the segments fit.
fn segments(pattern: &[Segment], path: &[&str]) -> Option<Vec<String>> {
    match (pattern, path) {
        ([], []) => Some(vec![]),
        ([Segment::Rest], path) => Some(vec![path.join("/")]),
        ([Segment::Literal(text), pattern @ ..], [first, path @ ..]) if **text == **first => segments(pattern, path),
        ([Segment::Capture(_), pattern @ ..], [first, path @ ..]) if !first.is_empty() => {
            let mut taken = segments(pattern, path)?;
            taken.insert(0, (*first).to_string());
            Some(taken)
        }
        _ => None,
    }
}

fn path(rule: &PathRule, path: &str) -> Option<Vec<String>> {
    match rule {
        PathRule::Pattern(pattern) => segments(&pattern.segments, &path[1..].split('/').collect::<Vec<_>>()),
        // One that stands for all: the others in use here have no groups.
        PathRule::Expression(expression) if expression.text() == "/(?<k>[ab])/(?<r>.*)" => {
            let (k, r) = path[1..].split_once('/')?;
            matches!(k, "a" | "b").then(|| vec![k.to_string(), r.to_string()])
        }
        PathRule::Expression(expression) => expression.is_match(path.as_bytes()).then(Vec::new),
    }
}

fn passes(test: &Test, value: Option<String>) -> bool {
    match (test, value) {
        (_, None) => false,
        (Test::Present, Some(_)) => true,
        (Test::Is(wanted), Some(value)) => **wanted == value,
        (Test::Matches(expression), Some(value)) => expression.is_match(value.as_bytes()),
    }
}

/// All but host, path and method.
fn asks(rule: &Rule, request: &Request) -> bool {
    let field = |name| {
        let lines: Vec<&str> = request.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
        (!lines.is_empty()).then(|| lines.join(","))
    };
    let parameter = |name: &str| {
        let pairs = request.parameters.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let plain = |text: &str| text.replace('+', " ").replace("%31", "1");
        pairs.map(|(name, value)| (plain(name), plain(value))).find(|(known, _)| known == name).map(|(_, value)| value)
    };
    (rule.listeners.is_empty() || rule.listeners.contains(&request.listener))
        && rule.headers.iter().all(|header| passes(&header.test, field(&header.name)))
        && rule.query.iter().all(|wanted| passes(&wanted.test, parameter(&wanted.name)))
}

/// The order of the contract, as something to sort by.
fn order(rule: &Rule, host: &HostPattern) -> impl Ord + use<> {
    let host = match host {
        HostPattern::Exact(_) => (0, Reverse(0)),
        HostPattern::Wildcard(suffix) => (1, Reverse(suffix.len())),
        HostPattern::Any => (2, Reverse(0)),
    };
    let path = match &rule.path {
        PathRule::Expression(_) => "4".to_string(),
        PathRule::Pattern(pattern) => {
            let digit = |segment: &Segment| match segment {
                Segment::Literal(_) => '0',
                Segment::Capture(_) => '1',
                Segment::Rest => '3',
            };
            pattern.segments.iter().map(digit).chain(['2']).collect()
        }
    };
    let fewer = (Reverse(rule.headers.len()), Reverse(rule.query.len()));
    (host, path, rule.methods.is_empty(), fewer, rule.listeners.is_empty(), rule.id)
}

fn allows(rule: &Rule, method: &Method) -> bool {
    let named = |method: &Method| rule.methods.contains(method);
    rule.methods.is_empty() || named(method) || (method == Method::HEAD && named(&Method::GET))
}

/// The answer, as [`shown`] writes it.
fn find(rules: &[Rule], request: &Request) -> String {
    let mut fitting: Vec<_> =
        rules.iter().filter(|rule| asks(rule, request)).flat_map(|rule| rule.hosts.iter().map(move |host| (rule, host))).collect();
    fitting.retain(|(rule, host)| covers(host, &request.host) && path(&rule.path, &request.path).is_some());
    fitting.sort_by_key(|(rule, host)| order(rule, host));
    let behind = request.headers.get("access-control-request-method").filter(|_| request.headers.contains_key("origin"));
    let behind: Option<Method> = behind.and_then(|method| method.to_str().ok()?.parse().ok()).filter(|_| request.method == Method::OPTIONS);
    let by_name = fitting.iter().find(|(rule, _)| behind.is_some() && rule.methods.contains(&Method::OPTIONS));
    let method = behind.as_ref().unwrap_or(&request.method);
    if let Some((rule, _)) = by_name.or_else(|| fitting.iter().find(|(rule, _)| allows(rule, method))) {
        let captured = path(&rule.path, &request.path).unwrap_or_default().join("|");
        return format!("{} {captured}", rule.id.0).trim_end().to_string();
    }
    let mut allowed: BTreeSet<String> = fitting.iter().flat_map(|(rule, _)| rule.methods.iter().map(Method::to_string)).collect();
    if allowed.contains("GET") {
        allowed.insert("HEAD".to_string());
    }
    match allowed.is_empty() {
        true => "404".to_string(),
        false => format!("405 {}", allowed.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

/// One of these words.
fn one_of(words: &'static str) -> impl Strategy<Value = &'static str> {
    prop::sample::select(words.split(';').collect::<Vec<_>>())
}

/// A route in a line. Few words, so that many of them meet.
fn line() -> impl Strategy<Value = String> {
    let segments = prop::collection::vec(one_of("a;b;{};;a"), 1..4).prop_map(|parts| {
        let parts = parts.iter().enumerate().map(|(at, part)| if *part == "{}" { format!("/{{c{at}}}") } else { format!("/{part}") });
        parts.collect::<String>()
    });
    let pattern = (segments, one_of(";;/*")).prop_map(|(path, end)| format!("{path}{end}"));
    let path = prop_oneof![
        6 => pattern,
        1 => Just("/*".to_string()),
        2 => one_of("~/(?<k>[ab])/(?<r>.*);~/a.*;~/[^/]*;~/|/a/b").prop_map(str::to_string),
    ];
    (
        one_of("*;*;a.com;b.a.com;*.com;*.a.com;a.com,*.a.com;b.a.com,*;*.b.a.com"),
        one_of(";;GET ;POST ;GET,PUT ;OPTIONS ;HEAD ;PUT,DELETE "),
        path,
        one_of(";;; x-a=1; x-a=2; x-a; x-b=~[12]; x-a=1 x-b"),
        one_of(";;; ?q=1; ?q; ?q=~[12]+; ?q=1 ?r; ?b+c=1"),
        one_of(";;; @0; @1; @0,1"),
    )
        .prop_map(|(host, methods, path, headers, query, listeners)| format!("{host} {methods}{path}{headers}{query}{listeners}"))
}

fn request() -> impl Strategy<Value = String> {
    let path = prop::collection::vec(one_of("a;b;c;;a"), 1..5).prop_map(|parts| format!("/{}", parts.join("/")));
    (
        one_of("GET;GET;HEAD;POST;PUT;OPTIONS;DELETE"),
        one_of("a.com;A.com;b.a.com;c.b.a.com;x.com;com;other;.a.com"),
        path,
        one_of(";;?q=1;?q=2&q=1;?r&q=%31;?q;?b+c=1&q=2"),
        one_of(";; x-a=1; x-a=2 x-b=1; x-a=1 x-a=1; x-b=2; x-a=1 x-b=3"),
        one_of(";; origin=o access-control-request-method=PUT; origin=o access-control-request-method=HEAD; origin=o"),
        one_of("; @1; @2"),
    )
        .prop_map(|(method, host, path, query, headers, preflight, listener)| {
            format!("{method} {host} {path}{query}{headers}{preflight}{listener}")
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_table_answers_as_the_contract_reads(
        lines in prop::collection::vec(line(), 1..16),
        requests in prop::collection::vec(request(), 1..16),
    ) {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        // `+` is for requests: names in a file are written as they are meant.
        let mut rules = rules(&lines);
        rules.iter_mut().flat_map(|rule| &mut rule.query).for_each(|wanted| wanted.name = wanted.name.replace('+', " ").into());
        let (table, shadowed) = (Table::new(rules.clone()), shadow::find(&rules));
        for line in &requests {
            let request = Request::parse(line);
            let outcome = table.find(&request.query());
            let answer = shown(&request.path, &outcome);
            prop_assert_eq!(&answer, &find(&rules, &request), "{}", line);
            let explanation = table.explain(&request.query());
            prop_assert_eq!(explanation.candidates.len() + explanation.others, rules.len());
            let won = explanation.candidates.iter().find(|candidate| candidate.verdict == Verdict::Won).map(|Candidate { id, .. }| id.0.to_string());
            prop_assert_eq!(won.as_deref(), answer.split(' ').next().filter(|id| id.len() < 3), "{}", line);
            prop_assert!(!shadowed.iter().any(|shadowed| Some(shadowed.id.0.to_string()) == won), "{}: {:?}", line, shadowed);
        }
    }
}
