//! `hash-key` and `hash-password`: what goes into the files of `api_key` and `basic`.

use super::failed::Failed;
use crate::auth::{api_key, basic};
use clap::Args;
use serde_json::json;
use std::io::{self, BufRead, IsTerminal};

/// Whose key.
#[derive(Args)]
pub struct KeyFor {
    /// Who has it.
    #[arg(value_name = "ID")]
    id: String,
    /// Takes the key from the first line of standard input instead of making one.
    #[arg(long)]
    stdin: bool,
    /// What it may be used for.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// The moment after which it is good no more, such as 2027-01-31T00:00:00Z.
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// Prints the entry, and the key when it was made here, as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Whose password. It is the first line of standard input.
#[derive(Args)]
pub struct PasswordFor {
    #[arg(value_name = "NAME")]
    name: String,
    /// Prints the entry as JSON.
    #[arg(long)]
    pub json: bool,
}

/// The entry for the keys file; the key itself, when it was made here, is shown once and in a comment.
pub fn key(asked: &KeyFor) -> Result<String, Failed> {
    if let Some(expires) = asked.expires.as_ref().filter(|expires| api_key::moment(expires).is_none()) {
        return Err(Failed::misuse(format!("`{expires}` is not a moment such as 2027-01-31T00:00:00Z")));
    }
    let (key, is_new) = match asked.stdin {
        true => (line()?, false),
        false => (api_key::make().map_err(|what| what + "\n")?, true),
    };
    let mut entry = json!({ "id": asked.id, "hash": api_key::hashed(&key).map_err(|what| what + "\n")? });
    if !asked.scopes.is_empty() {
        entry["scopes"] = asked.scopes.clone().into();
    }
    if let Some(expires) = &asked.expires {
        entry["expires"] = expires.as_str().into();
    }
    match (asked.json, is_new) {
        (true, true) => Ok(format!("{:#}\n", json!({ "key": key, "entry": entry }))),
        (true, false) => Ok(format!("{:#}\n", json!({ "entry": entry }))),
        (false, true) => Ok(format!("# the key, shown once: {key}\n- {entry}\n")),
        (false, false) => Ok(format!("- {entry}\n")),
    }
}

/// The entry for the users file.
pub fn password(asked: &PasswordFor) -> Result<String, Failed> {
    let hash = basic::hashed(&line()?).map_err(|what| what + "\n")?;
    let entry = json!({ "name": asked.name, "hash": hash });
    Ok(if asked.json { format!("{:#}\n", json!({ "entry": entry })) } else { format!("- {entry}\n") })
}

/// The first line of standard input, without what ends it.
fn line() -> Result<String, String> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        eprintln!("it is shown as you type; end with Enter:");
    }
    let mut line = String::new();
    stdin.lock().read_line(&mut line).map_err(|e| format!("standard input: {e}\n"))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_string())
}
