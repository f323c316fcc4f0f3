//! `purge`: answers that the running gateway is to forget.

use super::failed::Failed;
use super::remote::{self, Target};
use clap::Args;

/// What is to be forgotten.
#[derive(Args)]
pub struct Purging {
    /// All answers to this URL: every variant, whoever asked.
    #[arg(required_unless_present_any = ["prefix", "tag", "all"])]
    url: Option<String>,
    /// Answers to URLs that begin so, or to paths that begin so on any host.
    #[arg(long, value_name = "P", conflicts_with = "url")]
    prefix: Option<String>,
    /// Answers to which the service gave this tag.
    #[arg(long, value_name = "T", conflicts_with_all = ["url", "prefix"])]
    tag: Option<String>,
    /// Everything.
    #[arg(long, conflicts_with_all = ["url", "prefix", "tag"])]
    all: bool,
    /// Stale from now on, rather than gone: the service is asked whether it has changed.
    #[arg(long)]
    soft: bool,
    #[command(flatten)]
    pub target: Target,
}

/// Has it forgotten; the outcome, ready to be printed.
pub fn purge(asked: &Purging) -> Result<String, Failed> {
    let texts = [("url", &asked.url), ("prefix", &asked.prefix), ("tag", &asked.tag)];
    let flags = [("all", asked.all), ("soft", asked.soft)];
    let texts = texts.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?)));
    let parameters: Vec<_> = texts.chain(flags.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| (name, "true"))).collect();
    let answer = remote::tell(&asked.target, "/purge", &parameters)?;
    if asked.target.is_json() {
        return Ok(format!("{answer:#}\n"));
    }
    let here = match answer["purged"].as_u64().unwrap_or_default() {
        1 => "purged 1 answer\n".to_string(),
        n => format!("purged {n} answers\n"),
    };
    let elsewhere = match answer["told"].as_bool() {
        None => "",
        Some(true) => "the other gateways are told\n",
        Some(false) => "the other gateways will be told when the store that they share is back\n",
    };
    Ok(here + elsewhere)
}
