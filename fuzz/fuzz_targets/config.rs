//! Any text is a configuration or a list of problems, which can be shown, and soon.
#![no_main]

use frontdesk::config::{load, problem::Problems, render, source::Sources};
use libfuzzer_sys::{Corpus, fuzz_target};
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// What this thread has spent of the processor: others may keep it waiting.
fn spent() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock").into()
}

fuzz_target!(|text: &str| -> Corpus {
    // It would read whatever files are named, /dev/zero too.
    if text.contains("${file:") || text.contains("include") {
        return Corpus::Reject;
    }
    let (mut sources, problems, started) = (Sources::new("f.yaml", text), Problems::default(), spent());
    let config = load::read(&mut sources, &problems);
    assert!(config.is_some() || !problems.is_empty());
    let (errors, warnings) = problems.into_parts();
    errors.iter().chain(&warnings).for_each(|problem| assert!(problem.json(&sources, "error")["line"].as_u64() != Some(0)));
    assert!(errors.is_empty() || !render::render(&errors, &sources, "").is_empty());
    let took = spent() - started;
    assert!(took < Duration::from_secs(1), "took {took:?}");
    Corpus::Keep
});
