//! Commands that speak to the running gateway by way of its admin listener.

use super::failed::Failed;
use crate::config::load;
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::Admin;
use crate::config::scalar::Bind;
use crate::config::shape::{Node, Shape};
use crate::config::source::Sources;
use crate::shape::template::encode_parameter;
use clap::Args;
use reqwest::{Client, Method, StatusCode, Url};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For one answer: a reload may wait for DNS.
const PATIENCE: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(2);
/// Between two looks at whether the process is gone.
const PAUSE: Duration = Duration::from_millis(50);

/// Which gateway is meant.
#[derive(Args)]
pub struct Target {
    /// The configuration, whose `admin:` says where it listens.
    #[arg(short, long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Its admin listener, such as http://127.0.0.1:9901 or unix:/run/frontdesk/admin.sock, instead of a configuration. A token is taken from FRONTDESK_TOKEN.
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    admin: Option<Url>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

impl Target {
    pub fn config(&self) -> &Path {
        &self.config
    }
    /// It is named by its admin listener.
    pub fn is_remote(&self) -> bool {
        self.admin.is_some()
    }
    pub fn is_json(&self) -> bool {
        self.json
    }
}

/// Reads something of the running gateway.
pub fn read(target: &Target, path: &str, parameters: &[(&str, &str)]) -> Result<Value, Failed> {
    ask(target, Method::GET, path, parameters)
}

/// Tells the running gateway something.
pub fn tell(target: &Target, path: &str, parameters: &[(&str, &str)]) -> Result<Value, Failed> {
    ask(target, Method::POST, path, parameters)
}

fn ask(target: &Target, method: Method, path: &str, parameters: &[(&str, &str)]) -> Result<Value, Failed> {
    run(async {
        let mut path_and_query = path.to_string();
        for (n, (name, value)) in parameters.iter().enumerate() {
            let mark = if n == 0 { '?' } else { '&' };
            path_and_query.push_str(&format!("{mark}{name}={}", encode_parameter(value)));
        }
        let (status, text) = Remote::find(target)?.ask(method, &path_and_query).await?;
        match serde_json::from_str(&text) {
            Ok(answer) if status.is_success() => Ok(answer),
            _ => Err(refused(status, &text)),
        }
    })
}

/// An answer that is none.
fn refused(status: StatusCode, text: &str) -> Failed {
    format!("{status}: {text}").into()
}

/// A running gateway.
struct Remote {
    client: Client,
    base: Url,
    token: Option<String>,
}

/// Reads the configuration again; the outcome, ready to be printed.
pub fn reload(target: &Target) -> Result<String, Failed> {
    run(async {
        let (status, text) = Remote::find(target)?.ask(Method::POST, "/reload").await?;
        let answer: Value = serde_json::from_str(&text).map_err(|_| refused(status, &text))?;
        let why = match status {
            _ if target.json && status.is_success() => return Ok(text),
            StatusCode::OK => return Ok(format!("reloaded: version {} runs\n", answer["version"])),
            StatusCode::UNPROCESSABLE_ENTITY => {
                let why = answer["error"].as_str().unwrap_or_default().trim_end();
                format!("{why}\nnot reloaded: version {} goes on\n", answer["version"])
            }
            _ => format!("not reloaded: {}\n", answer["error"].as_str().unwrap_or(&text)),
        };
        Err(Failed::told(why, answer))
    })
}

/// Has the program started anew; the outcome, ready to be printed.
pub fn upgrade(target: &Target) -> Result<String, Failed> {
    run(async {
        let (status, text) = Remote::find(target)?.ask(Method::POST, "/upgrade").await?;
        let answer: Value = serde_json::from_str(&text).map_err(|_| refused(status, &text))?;
        match status.is_success() {
            true if target.json => Ok(text),
            true => Ok(format!("upgraded: process {} has taken over from {}\n", answer["pid"], answer["old_pid"])),
            false => {
                let why = answer["error"].as_str().unwrap_or(&text).trim_end();
                Err(Failed::told(format!("{why}\nnot upgraded: the gateway serves on as it is\n"), answer))
            }
        }
    })
}

/// Tells the process to end, and waits until it has.
pub fn end(target: &Target, path: &str) -> Result<String, Failed> {
    run(async {
        let remote = Remote::find(target)?;
        let pid = remote.pid().await?;
        let (status, text) = remote.ask(Method::POST, path).await?;
        if !status.is_success() {
            return Err(refused(status, &text));
        }
        // Another process may take its place at once.
        while remote.pid().await.is_ok_and(|now| now == pid) {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(if target.json { format!("{{ \"ended\": {pid} }}\n") } else { format!("process {pid} has ended\n") })
    })
}

/// What becomes of an endpoint.
#[derive(Args)]
pub struct EndpointOrder {
    /// `drain` takes it out, `resume` back in.
    #[arg(value_parser = ["drain", "resume"])]
    order: String,
    /// The service's name.
    service: String,
    /// The endpoint's address, as `status` shows it.
    address: String,
    #[command(flatten)]
    pub target: Target,
}

/// Takes an endpoint out, or back in; the outcome, ready to be printed.
pub fn endpoint(order: &EndpointOrder) -> Result<String, Failed> {
    run(async {
        let state = if order.order == "drain" { "drained" } else { "up" };
        let (service, address) = (encode_parameter(&order.service), encode_parameter(&order.address));
        let path = format!("/endpoint?service={service}&address={address}&state={state}");
        let (status, text) = Remote::find(&order.target)?.ask(Method::POST, &path).await?;
        match status.is_success() {
            true if order.target.json => Ok(text),
            true => Ok(format!("{} of {} is {state}\n", order.address, order.service)),
            false => Err(text.into()),
        }
    })
}

fn run<T>(work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| format!("{e}\n"))?.block_on(work)
}

fn client(socket: Option<&str>) -> Result<Client, String> {
    let builder = Client::builder().timeout(PATIENCE).connect_timeout(CONNECT);
    let builder = match socket {
        Some(path) => builder.unix_socket(path),
        None => builder,
    };
    builder.build().map_err(|e| format!("{e}\n"))
}

impl Remote {
    fn find(target: &Target) -> Result<Remote, String> {
        if let Some(base) = &target.admin {
            let token = std::env::var("FRONTDESK_TOKEN").ok();
            return match base.scheme() {
                "unix" => Remote::at_socket(base.path(), token),
                _ => Ok(Remote { client: client(None)?, base: base.clone(), token }),
            };
        }
        let admin = admin_of(&target.config)?;
        let token = admin.token.map(|token| token.0);
        let mut address = match admin.bind {
            Bind::Tcp(address) => address,
            Bind::Unix(path) => return Remote::at_socket(&path, token),
            Bind::Systemd(_) => {
                let shown = target.config.display();
                return Err(format!("{shown}: systemd knows where `admin` listens: name it by --admin\n"));
            }
        };
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
        }
        let base = format!("http://{address}").parse().map_err(|e| format!("{address}: {e}\n"))?;
        Ok(Remote { client: client(None)?, base, token })
    }

    /// A gateway whose admin listener is a Unix socket.
    fn at_socket(path: &str, token: Option<String>) -> Result<Remote, String> {
        // The name is the one that every admin listener answers to.
        let base = Url::parse("http://localhost").map_err(|e| format!("{e}\n"))?;
        Ok(Remote { client: client(Some(path))?, base, token })
    }

    async fn ask(&self, method: Method, path: &str) -> Result<(StatusCode, String), String> {
        let failed = |e: reqwest::Error| format!("the gateway at {} does not answer: {}\n", self.base, cause(&e));
        let url = self.base.join(path).map_err(|e| format!("{}: {e}\n", self.base))?;
        let request = self.client.request(method, url);
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let answer = request.send().await.map_err(failed)?;
        Ok((answer.status(), answer.text().await.map_err(failed)?))
    }

    /// The process that answers.
    async fn pid(&self) -> Result<u64, String> {
        let (status, text) = self.ask(Method::GET, "/status").await?;
        let answer: Option<Value> = serde_json::from_str(&text).ok();
        answer.and_then(|answer| answer["pid"].as_u64()).ok_or_else(|| format!("{status}: {text}"))
    }
}

/// The innermost of an error's causes, which says what happened.
fn cause(e: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = e;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// The admin part of a file that may be wrong elsewhere.
fn admin_of(path: &Path) -> Result<Admin, String> {
    let shown = path.display();
    let file = load::read_file(path).map_err(|e| format!("{shown}: {e}\n"))?;
    let (mut sources, problems) = (Sources::new(file.name, file.text), Problems::default());
    let value = load::parse(&mut sources, &problems);
    let root = At::root();
    let at = root.key("admin");
    let admin = value.as_ref().and_then(|value| value.get("admin"));
    let Some(read) = admin.map(|value| Admin::read(&Node { value, at: &at, problems: &problems })) else {
        return Err(format!("{shown} has no `admin:`, so a gateway that runs it can't be asked: add one, or use --admin\n"));
    };
    read.ok_or_else(|| problems.into_parts().0.iter().map(|problem| problem.render(&sources)).collect())
}
