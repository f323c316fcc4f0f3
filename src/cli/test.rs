//! `test`: the `tests:` of a configuration.

use crate::proxy::rehearse::{Difference, Rehearsed};
use crate::server::{Origin, rehearse};
use clap::Args;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Which tests.
#[derive(Args)]
pub struct Tested {
    #[arg(short, long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Says it as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs them all. Whatever comes of it is the answer: to stdout.
pub fn run(tested: &Tested) -> ExitCode {
    let rehearsed = match rehearse(&Origin::File(tested.config.clone())) {
        Ok(rehearsed) => rehearsed,
        Err(failure) => return super::print(Err(failure.into()), tested.json),
    };
    let failed = rehearsed.iter().filter(|test| !test.ok).count();
    let told = match tested.json {
        true => {
            let passed = rehearsed.len() - failed;
            format!("{:#}\n", serde_json::json!({ "ok": failed == 0, "passed": passed, "failed": failed, "tests": rehearsed }))
        }
        false => told(&rehearsed, failed),
    };
    let code = super::print(Ok(told), tested.json);
    if failed == 0 { code } else { ExitCode::FAILURE }
}

fn told(rehearsed: &[Rehearsed], failed: usize) -> String {
    let mut out = String::new();
    for test in rehearsed {
        let _ = writeln!(out, "{}  {}", if test.ok { "ok  " } else { "FAIL" }, test.name);
        if !test.ok && test.name != test.request {
            let _ = writeln!(out, "      {}", test.request);
        }
        for Difference { key, expected, found } in &test.differences {
            let shown = |text: &str| if text.is_empty() { "none".to_string() } else { format!("`{text}`") };
            let _ = match *key {
                "" => writeln!(out, "      {found}"),
                key => writeln!(out, "      {key} is {}, expected {}", shown(found), shown(expected)),
            };
        }
    }
    let s = if rehearsed.len() == 1 { "" } else { "s" };
    let _ = match failed {
        0 => writeln!(out, "{} test{s} passed", rehearsed.len()),
        _ => writeln!(out, "{failed} of {} test{s} failed", rehearsed.len()),
    };
    out
}
