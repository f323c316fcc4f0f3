//! `tests:`, the operator's own: requests that nobody sends, decided by the steps that serve requests.

use super::explain::{Explanation, Outcome, explain};
use super::question::Question;
use crate::config::raw::{Expect, Test};
use crate::config::secret::Hidden;
use crate::snapshot::Snapshot;
use serde::Serialize;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// What a test came to.
#[derive(Debug, Serialize)]
pub struct Rehearsed {
    /// Its name, or its request.
    pub name: String,
    pub request: String,
    pub ok: bool,
    /// What is not as expected.
    pub differences: Vec<Difference>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The key of `expect`; empty when the request can't be asked about.
    pub key: &'static str,
    pub expected: String,
    pub found: String,
}

/// Runs one test. Nobody has asked before it, so that limits let it pass.
pub fn rehearse(snapshot: &Arc<Snapshot>, test: &Test) -> Rehearsed {
    let request = test.request.to_string();
    let differences = match question(test).and_then(|question| explain(snapshot, &question)) {
        Ok(explanation) => differences(&test.expect, &explanation, &snapshot.meta.hidden),
        Err(what) => vec![Difference { key: "", expected: String::new(), found: what }],
    };
    Rehearsed { name: test.name.clone().unwrap_or_else(|| request.clone()), request, ok: differences.is_empty(), differences }
}

fn question(test: &Test) -> Result<Question, String> {
    let header = |(name, value): &(String, String)| match (name.parse(), value.parse()) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        _ => Err(format!("`{name}: {value}` is not a header field")),
    };
    Ok(Question {
        method: test.request.method.clone(),
        url: test.request.url.clone(),
        headers: test.headers.0.iter().map(header).collect::<Result<_, _>>()?,
        listener: test.listener.as_ref().map(|name| name.0.clone()),
        client_ip: test.client_ip.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |ip| ip.0),
        claims: test.jwt.as_ref().map(|claims| claims.0.clone()),
    })
}

/// What is found is compared as it is, and told without secrets.
fn differences(expect: &Expect, explanation: &Explanation, hidden: &Hidden) -> Vec<Difference> {
    let told = &json!(explanation);
    let outcome = told["outcome"].as_object().and_then(|outcome| outcome.values().next()).unwrap_or(&Value::Null);
    let text = |key: &str| outcome[key].as_str().unwrap_or_default().to_string();
    // A service's own status is not known before it is asked.
    let status = outcome["status"].as_u64().unwrap_or(200).to_string();
    let is_sent = told["outcome"]["forwarded"].is_object();
    let upstream = |key: &str| if is_sent { text(key) } else { String::new() };
    let wanted = |text: &Option<String>| text.clone();
    let all = [
        ("route", wanted(&expect.route), text("route")),
        ("status", expect.status.map(|status| status.0.to_string()), status),
        ("code", wanted(&expect.code), text("code")),
        ("service", wanted(&expect.service), text("service")),
        ("upstream_path", wanted(&expect.upstream_path), upstream("path")),
        ("upstream_host", wanted(&expect.upstream_host), upstream("host")),
        ("location", wanted(&expect.location), text("location")),
        ("identity", wanted(&expect.identity), told["identity"].as_str().unwrap_or_default().to_string()),
    ];
    // An expectation without a query is one of the path alone.
    let is_met = |key: &str, expected: &str, found: &str| {
        expected == found || key == "upstream_path" && !expected.contains('?') && found.split('?').next() == Some(expected)
    };
    let differs = |(key, expected, found): (&'static str, Option<String>, String)| {
        let expected = expected.filter(|expected| !is_met(key, expected, &found))?;
        let found = match &explanation.outcome {
            Outcome::Forwarded(sent) if key == "upstream_path" => hidden.masked(&sent.shown),
            _ => hidden.masked(&found),
        };
        Some(Difference { key, expected: hidden.masked(&expected), found })
    };
    all.into_iter().filter_map(differs).collect()
}
