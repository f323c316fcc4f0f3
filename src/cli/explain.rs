//! `explain` and `routes`: what a configuration, or the gateway that runs, would do.

use super::failed::Failed;
use super::remote::{self, Target};
use crate::proxy::explain::{Question, routes, shown};
use crate::server::{Origin, inspect};
use crate::snapshot::Snapshot;
use clap::Args;
use serde_json::Value;
use std::fmt::Write as _;
use std::sync::Arc;

/// A request to ask about.
#[derive(Args)]
pub struct Asked {
    /// Such as GET.
    method: String,
    /// Such as https://api.example.com/orders/7, or a path.
    url: String,
    /// A header field, `Name: value`.
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    headers: Vec<String>,
    /// The listener it comes in by; the first when absent.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Who asks; this machine when absent.
    #[arg(long, value_name = "ADDR")]
    client_ip: Option<String>,
    /// Asks the running gateway instead of the file.
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    pub target: Target,
}

/// Which table to print.
#[derive(Args)]
pub struct Listing {
    /// Asks the running gateway instead of the file.
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    pub target: Target,
}

/// Names each candidate route, why it lost, and what the winner does.
pub fn explain_request(asked: &Asked) -> Result<String, Failed> {
    let (listener, client_ip) = (asked.listener.as_deref(), asked.client_ip.as_deref());
    let headers = asked.headers.iter().map(String::as_str);
    let question = Question::parse(&asked.method, &asked.url, headers, listener, client_ip).map_err(Failed::misuse)?;
    let answer = if asked.live || asked.target.is_remote() {
        let named = [("method", Some(&*asked.method)), ("url", Some(&*asked.url)), ("listener", listener), ("client_ip", client_ip)];
        let pairs = named.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let pairs: Vec<_> = pairs.chain(asked.headers.iter().map(|field| ("header", field.as_str()))).collect();
        remote::read(&asked.target, "/explain", &pairs)?
    } else {
        let snapshot = of_file(&asked.target)?;
        shown(&snapshot, &question).map_err(|what| what + "\n")?
    };
    Ok(if asked.target.is_json() { format!("{answer:#}\n") } else { told(&answer) })
}

/// The table, in order of precedence.
pub fn list(listing: &Listing) -> Result<String, Failed> {
    let answer = if listing.live || listing.target.is_remote() {
        remote::read(&listing.target, "/routes", &[])?
    } else {
        let snapshot = of_file(&listing.target)?;
        serde_json::json!(routes(&snapshot))
    };
    if listing.target.is_json() {
        return Ok(format!("{answer:#}\n"));
    }
    let rows: Vec<[&str; 3]> = answer
        .as_array()
        .into_iter()
        .flatten()
        .map(|route| ["route", "asks", "leads_to"].map(|key| route[key].as_str().unwrap_or_default()))
        .collect();
    Ok(columns(["ROUTE", "ASKS FOR", "LEADS TO"], &rows))
}

/// What a file's configuration comes to.
fn of_file(target: &Target) -> Result<Arc<Snapshot>, Failed> {
    Ok(inspect(&Origin::File(target.config().into()))?)
}

/// Rows under a heading, each column as wide as its longest text.
fn columns<const N: usize>(heading: [&str; N], rows: &[[&str; N]]) -> String {
    let all = || std::iter::once(&heading).chain(rows);
    let widths: [usize; N] = std::array::from_fn(|column| all().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut out = String::new();
    for row in all() {
        let line: String = row.iter().zip(widths).map(|(text, width)| format!("{text:width$}  ")).collect();
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// An explanation for people.
fn told(answer: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    let mut out = format!(
        "{} {} {} by listener {}, from {}\n\n",
        text(&answer["method"]),
        text(&answer["host"]),
        text(&answer["path"]),
        text(&answer["listener"]),
        text(&answer["client_ip"])
    );
    let candidates: Vec<[String; 3]> = answer["candidates"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|candidate| ["route", "asks", "verdict"].map(|key| text(&candidate[key])))
        .collect();
    if !candidates.is_empty() {
        let rows: Vec<[&str; 3]> = candidates.iter().map(|row| row.each_ref().map(String::as_str)).collect();
        out.push_str(&columns(["ROUTE", "ASKS FOR", "VERDICT"], &rows));
    }
    match answer["others"].as_u64() {
        Some(0) | None => {}
        Some(1) => out.push_str("and one route whose path does not fit\n"),
        Some(others) => drop(writeln!(out, "and {others} routes whose path does not fit")),
    }
    if out.ends_with("\n\n") {
        out.pop();
    }
    out.push('\n');
    if let Some(auth) = answer["auth"].as_object() {
        let list = |key: &str| auth[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>();
        let asks: Vec<&str> = list("requires").into_iter().chain((!list("methods").is_empty()).then_some("one of")).collect();
        let _ = writeln!(
            out,
            "it asks for {} {}\n  and finds  {}\n",
            asks.join(", "),
            list("methods").join(", "),
            text(&answer["auth"]["verdict"])
        );
    }
    for limit in answer["limits"].as_array().into_iter().flatten() {
        let (name, rate, by, key) = (text(&limit["limit"]), text(&limit["rate"]), text(&limit["by"]), text(&limit["key"]));
        let _ = writeln!(out, "limit {name} ({rate}) by {by}, key {key}: {}, {} left", text(&limit["verdict"]), limit["left"]);
    }
    if answer["cache"].is_object() {
        cached(&mut out, &answer["cache"]);
    }
    let _ = match answer["outcome"].as_object().and_then(|outcome| outcome.iter().next()) {
        Some((kind, refused)) if kind == "refused" => {
            writeln!(out, "refused: {} {}: {}", refused["status"], text(&refused["code"]), text(&refused["detail"]))
        }
        Some((kind, told)) if kind == "redirected" => {
            writeln!(out, "route {} answers {} with Location {}", text(&told["route"]), told["status"], text(&told["location"]))
        }
        Some((kind, told)) if kind == "answered" => writeln!(out, "route {} answers {} by itself", text(&told["route"]), told["status"]),
        Some((kind, told)) if kind == "composed" => composed(&mut out, told),
        Some((_, told)) => forwarded(&mut out, told),
        None => Ok(()),
    };
    out
}

fn cached(out: &mut String, told: &Value) {
    let text = |key: &str| told[key].as_str().unwrap_or_default();
    let _ = writeln!(out, "cache {} by {}, key {}: {}, {}", text("cache"), text("by"), text("key"), text("status"), text("why"));
    if let Some(kept) = told["kept"].as_object() {
        let _ = writeln!(out, "  kept       {} bytes, {} s old, fresh for {} s", kept["bytes"], kept["age_seconds"], kept["fresh_seconds"]);
    }
    if !text("condition").is_empty() {
        let _ = writeln!(out, "  condition  {}", text("condition"));
    }
}

fn composed(out: &mut String, told: &Value) -> std::fmt::Result {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    writeln!(out, "route {} makes one answer of these calls, within {}\n", text(&told["route"]), text(&told["timeout"]))?;
    let rows = told["calls"].as_array().into_iter().flatten();
    let rows: Vec<[String; 4]> = rows.map(|call| ["call", "asks", "service", "when"].map(|key| text(&call[key]))).collect();
    let rows: Vec<[&str; 4]> = rows.iter().map(|row| row.each_ref().map(String::as_str)).collect();
    out.push_str(&columns(["CALL", "ASKS", "SERVICE", "WHEN"], &rows));
    Ok(())
}

fn forwarded(out: &mut String, told: &Value) -> std::fmt::Result {
    let text = |key: &str| told[key].as_str().unwrap_or_default();
    let list = |key: &str| told[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
    writeln!(out, "route {} sends it to service {}", text("route"), text("service"))?;
    if told["percent"] != 100.0 {
        writeln!(out, "  which gets {:.1} percent of its clients, this one among them", told["percent"].as_f64().unwrap_or_default())?;
    }
    writeln!(out, "  as         {} with Host {}", text("path"), text("host"))?;
    let member = |member: &Value| match (&member["address"], member["state"].as_str()) {
        (address, None | Some("up")) => address.as_str().unwrap_or_default().to_string(),
        (address, Some(state)) => format!("{} ({state})", address.as_str().unwrap_or_default()),
    };
    let pool: Vec<String> = told["pool"].as_array().into_iter().flatten().map(member).collect();
    writeln!(out, "  endpoints  {}", pool.join(", "))?;
    if text("breaker") == "open" {
        writeln!(out, "  breaker    open: it gets nothing but a try now and then, and clients its fallback or 503 breaker_open")?;
    }
    writeln!(out, "  timeouts   {}", text("timeouts"))?;
    match told["body_bytes_max"].as_u64() {
        Some(bytes) => writeln!(out, "  body       at most {bytes} bytes")?,
        None => writeln!(out, "  body       of any size")?,
    }
    match list("headers") {
        headers if headers.is_empty() => Ok(()),
        headers => writeln!(out, "  headers    {headers}"),
    }
}
