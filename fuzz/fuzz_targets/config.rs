//! Any text is a configuration or a list of problems, which can be shown, and soon.
#![no_main]

use frontdesk::config::{load, place::Source, problem::Problems};
use libfuzzer_sys::{Corpus, fuzz_target};
use std::time::{Duration, Instant};

fuzz_target!(|text: &str| -> Corpus {
    // It would read whatever file is named, /dev/zero too.
    if text.contains("${file:") {
        return Corpus::Reject;
    }
    let (source, problems, started) = (Source::new("f.yaml", text), Problems::default(), Instant::now());
    let config = load::read(&source, &problems);
    assert!(config.is_some() || !problems.is_empty());
    let (errors, warnings) = problems.into_parts();
    errors.iter().chain(&warnings).for_each(|problem| assert!(!problem.render(&source).is_empty()));
    assert!(started.elapsed() < Duration::from_secs(1), "took {:?}", started.elapsed());
    Corpus::Keep
});
