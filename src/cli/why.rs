//! `why`: what the running gateway remembers of a request that it refused.

use super::failed::Failed;
use super::remote::{self, Target};
use serde_json::Value;
use std::fmt::Write as _;

/// Why a request was refused.
///
/// # Errors
/// It is not known, or the gateway does not answer.
pub fn why(id: &str, target: &Target) -> Result<String, Failed> {
    let answer = remote::read(target, "/refusals", &[("id", id)])?;
    let Some(refused) = answer["refusals"].as_array().and_then(|all| all.first()) else {
        let kept = &answer["kept"];
        return Err(
            format!("`{id}` is not among the last {kept} requests that were refused or failed: the access log may know more\n").into()
        );
    };
    Ok(if target.is_json() { format!("{refused:#}\n") } else { told(refused) })
}

fn told(refused: &Value) -> String {
    let text = |key: &str| refused[key].as_str().unwrap_or_default();
    let mut out = format!("{} {}{} at {}, from {}\n", text("method"), text("host"), text("path"), text("time"), text("client_ip"));
    let _ = writeln!(out, "answered {} {}: {}", refused["status"], text("code"), text("detail"));
    let lines = [
        ("route", "route"),
        ("service", "service"),
        ("endpoint", "endpoint"),
        ("identity", "identity"),
        ("asked by", "auth"),
        ("limit", "limit"),
    ];
    for (label, key) in lines.into_iter().filter(|(_, key)| !text(key).is_empty()) {
        let _ = writeln!(out, "  {label:<9} {}", text(key));
    }
    if let Some(attempts) = refused["attempts"].as_u64().filter(|attempts| *attempts > 0) {
        let _ = writeln!(out, "  attempts  {attempts}");
    }
    let _ = writeln!(out, "  after     {:.1} ms", refused["duration_ms"].as_f64().unwrap_or_default());
    out
}
