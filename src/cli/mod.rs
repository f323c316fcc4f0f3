//! The commands.

mod diff;
mod explain;
mod failed;
mod hash;
mod purge;
mod remote;
mod status;
mod test;
mod why;

use crate::config::scalar::{Bind, Url};
use crate::config::schema::schema;
use crate::server::{self, Origin};
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use diff::Compared;
use explain::{Asked, Listing};
use failed::Failed;
use remote::Target;
use serde_json::json;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use test::Tested;

const DEFAULT_CONFIG: &str = "/etc/frontdesk/frontdesk.yaml";

const AFTER: &str =
    "Exit codes: 0 done, 1 refused or failed, 2 wrong use. The configuration is /etc/frontdesk/frontdesk.yaml unless -c says otherwise.";

/// An API gateway on Pingora: one front door for many services.
#[derive(Parser)]
#[command(name = "frontdesk", version, after_help = AFTER)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs in the foreground. SIGHUP reloads, SIGTERM drains and stops, SIGINT stops at once, SIGUSR1 reopens logs, SIGUSR2 upgrades.
    Run {
        /// The configuration.
        #[arg(short, long, value_name = "FILE", conflicts_with = "to")]
        config: Option<PathBuf>,
        /// Without a file: sends everything to this URL.
        #[arg(long, value_name = "URL", value_parser = read_as::<Url>)]
        to: Option<String>,
        /// Where to listen, with `--to`.
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", requires = "to", value_parser = read_as::<Bind>)]
        bind: String,
    },
    /// Says everything that is wrong with a configuration, without running it.
    Check {
        #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// Says it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Runs the configuration's own `tests`.
    Test(Tested),
    /// Says which route a request takes and why, and what becomes of it.
    Explain(Asked),
    /// Says which requests change hands from one configuration to another, and what gets looser: then the exit code is 1.
    Diff(Compared),
    /// Prints the routes in the order in which they win.
    Routes(Listing),
    /// Makes the running gateway read its configuration again, and waits for the outcome.
    Reload(Target),
    /// Makes the running gateway start the program anew, from where it lies, and hand over to it; it serves on if that fails.
    Upgrade(Target),
    /// Makes the running gateway stop accepting, finish what is in flight and end, and waits for that.
    Drain(Target),
    /// Ends the running gateway at once.
    Stop(Target),
    /// Takes an endpoint of the running gateway out, or back in: what is in flight there is finished.
    Endpoint(remote::EndpointOrder),
    /// Shows what the running gateway says of itself.
    Status(Target),
    /// Says why the running gateway refused a request, by its X-Request-Id.
    Why {
        #[arg(value_name = "REQUEST-ID")]
        id: String,
        #[command(flatten)]
        target: Target,
    },
    /// Makes the running gateway forget answers that it keeps.
    Purge(purge::Purging),
    /// Prints the JSON Schema of configurations, for editors.
    Schema,
    /// Makes an API key, and prints its entry for the keys file.
    HashKey(hash::KeyFor),
    /// Reads a password from standard input, and prints its entry for the users file.
    HashPassword(hash::PasswordFor),
    /// Prints what a shell needs to complete commands: `frontdesk completions bash > /etc/bash_completion.d/frontdesk`.
    Completions { shell: Shell },
    /// Prints the manual: `frontdesk man | man -l -`; of a command, its own page.
    Man {
        #[arg(value_name = "COMMAND")]
        of: Option<String>,
    },
    /// Says which version this is.
    Version {
        /// Says it as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command that the process was started with. Exit codes: 0 done, 1 refused or failed, 2 wrong use.
pub fn main() -> ExitCode {
    // For the one client that has none of its own; more than once does no harm.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    match arguments.command {
        Command::Run { config, to, bind } => run(config, to, &bind),
        Command::Check { config, json } => check(config, json),
        Command::Schema => print(Ok(format!("{:#}\n", schema())), false),
        Command::Test(tested) => test::run(&tested),
        Command::Diff(compared) => diff::run(&compared),
        Command::Explain(asked) => print(explain::explain_request(&asked), asked.target.is_json()),
        Command::Routes(listing) => print(explain::list(&listing), listing.target.is_json()),
        Command::Reload(target) => print(remote::reload(&target), target.is_json()),
        Command::Upgrade(target) => print(remote::upgrade(&target), target.is_json()),
        Command::Drain(target) => print(remote::end(&target, "/drain"), target.is_json()),
        Command::Stop(target) => print(remote::end(&target, "/stop"), target.is_json()),
        Command::Why { id, target } => print(why::why(&id, &target), target.is_json()),
        Command::Endpoint(order) => print(remote::endpoint(&order), order.target.is_json()),
        Command::Status(target) => print(status::status(&target), target.is_json()),
        Command::Purge(asked) => print(purge::purge(&asked), asked.target.is_json()),
        Command::HashKey(asked) => print(hash::key(&asked), asked.json),
        Command::HashPassword(asked) => print(hash::password(&asked), asked.json),
        Command::Completions { shell } => print(Ok(completions(shell)), false),
        Command::Man { of } => print(man(of.as_deref()), false),
        Command::Version { json } => print(Ok(version(json)), json),
    }
}

fn version(as_json: bool) -> String {
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    if as_json { format!("{:#}\n", json!({ "name": name, "version": version })) } else { format!("{name} {version}\n") }
}

/// A script for that shell.
fn completions(shell: Shell) -> String {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "frontdesk", &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// A page of the manual, in roff: of the program, or of one of its commands.
fn man(of: Option<&str>) -> Result<String, Failed> {
    let mut command = Arguments::command();
    command.build();
    let command = match of {
        None => command,
        Some(name) => {
            let found = command.find_subcommand(name).ok_or_else(|| Failed::misuse(format!("no command is named `{name}`")))?;
            found.clone()
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).map_err(|e| format!("{e}\n"))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// Prints an outcome: what was done to stdout, what failed to stderr. For machines both are JSON on stdout: whatever it says, it
/// is the answer.
fn print(outcome: Result<String, Failed>, as_json: bool) -> ExitCode {
    // A reader that has gone, such as `head`, is no failure.
    match outcome {
        Ok(text) => {
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(failed) => {
            let _ = match as_json {
                true => io::stdout().write_all(format!("{:#}\n", failed.json).as_bytes()),
                false => io::stderr().write_all(failed.text.as_bytes()),
            };
            ExitCode::from(failed.code)
        }
    }
}

/// A text that the configuration reads as a `T`, or into which it puts values.
fn read_as<T: FromStr<Err = String>>(text: &str) -> Result<String, String> {
    if text.contains("${") { Ok(text.to_string()) } else { text.parse::<T>().map(|_| text.to_string()) }
}

fn run(config: Option<PathBuf>, to: Option<String>, bind: &str) -> ExitCode {
    let origin = match (config, to) {
        (_, Some(to)) => Origin::Text("--to".to_string(), single(&to, bind)),
        (config, None) => Origin::File(config.unwrap_or_else(|| DEFAULT_CONFIG.into())),
    };
    server::run(origin).unwrap_or_else(|failure| {
        eprintln!("{failure}");
        ExitCode::FAILURE
    })
}

/// The configuration of `run --to`.
fn single(to: &str, bind: &str) -> String {
    let (to, bind) = (json!(to), json!(bind));
    format!("listeners: [{{ bind: {bind} }}]\nroutes: [{{ path: /*, to: {to} }}]\naccess_log: {{ path: stdout }}\n")
}

fn check(config: PathBuf, as_json: bool) -> ExitCode {
    let outcome = match server::check(&Origin::File(config)) {
        Ok(report) if report.is_good() && as_json => Ok(format!("{:#}\n", report.json())),
        Ok(report) if report.is_good() => Ok(format!("{report}\n")),
        Ok(report) => Err(Failed::told(format!("{report}\n"), report.json())),
        Err(failure) => Err(failure.into()),
    };
    print(outcome, as_json)
}
