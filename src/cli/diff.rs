//! `diff`: what another configuration would change.

use crate::proxy::difference::{Change, Comparison, Owner};
use crate::server::{Origin, compare};
use clap::Args;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// The two configurations.
#[derive(Args)]
pub struct Compared {
    #[arg(value_name = "OLD")]
    old: PathBuf,
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Says it as JSON.
    #[arg(long)]
    json: bool,
}

/// Compares them. Whatever comes of it is the answer: to stdout. Something looser is a failure.
pub fn run(compared: &Compared) -> ExitCode {
    let comparison = match compare(&Origin::File(compared.old.clone()), &Origin::File(compared.new.clone())) {
        Ok(comparison) => comparison,
        Err(failure) => return super::print(Err(failure.into()), compared.json),
    };
    let told = match compared.json {
        true => format!("{:#}\n", serde_json::json!(comparison)),
        false => told(&comparison),
    };
    let code = super::print(Ok(told), compared.json);
    if comparison.is_looser { ExitCode::FAILURE } else { code }
}

fn told(comparison: &Comparison) -> String {
    let mut out = String::new();
    comparison.changes.iter().for_each(|change| change_told(&mut out, change));
    for what in &comparison.looser {
        let _ = writeln!(out, "LOOSER  {what}\n");
    }
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let looser = comparison.changes.iter().filter(|change| !change.looser.is_empty()).count() + comparison.looser.len();
    let all = comparison.changes.len() + comparison.looser.len();
    let _ = match (all, looser) {
        (0, _) => writeln!(out, "no request changes hands"),
        (all, 0) => writeln!(out, "{}, none of them looser", count(all, "change")),
        (all, looser) => writeln!(out, "{}, {looser} looser", count(all, "change")),
    };
    out
}

fn change_told(out: &mut String, change: &Change) {
    let Some((first, others)) = change.requests.split_first() else { return };
    let _ = writeln!(out, "{first}");
    if !others.is_empty() {
        let _ = writeln!(out, "  and {} like it, such as {}", others.len(), others[0]);
    }
    type Part = fn(&Owner) -> &str;
    let parts: [(&str, Part); 4] = [
        ("route", |owner| &owner.route),
        ("to", |owner| &owner.leads_to),
        ("auth", |owner| &owner.auth),
        ("limits", |owner| &owner.limits),
    ];
    for (label, part) in parts {
        let shown = |owner: &Option<Owner>| owner.as_ref().map_or("nothing", part).to_string();
        let (old, new) = (shown(&change.old), shown(&change.new));
        let _ = match old == new {
            true if label == "route" => writeln!(out, "  {label:<7} {old}"),
            true => Ok(()),
            false => writeln!(out, "  {label:<7} {old}  ->  {new}"),
        };
    }
    for what in &change.looser {
        let _ = writeln!(out, "  LOOSER  {what}");
    }
    out.push('\n');
}
