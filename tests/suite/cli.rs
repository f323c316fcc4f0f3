//! The commands, their exit codes and what they print.

use crate::kit::{Client, Gateway, Origin, dead_address, eventually, frontdesk, run};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

fn write(folder: &tempfile::TempDir, yaml: &str) {
    std::fs::write(folder.path().join("f.yaml"), yaml).expect("a file");
}

fn check(yaml: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("f.yaml");
    std::fs::write(&path, yaml).expect("a file");
    let output = run(frontdesk().args(["check", "-c"]).arg(&path));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).replace(&format!("{}/", folder.path().display()), "");
    (output.status.code(), text)
}

#[test]
fn check_says_everything_that_is_wrong_with_its_place_cause_and_remedy() {
    let (code, text) = check(
        "listeners: [{ bind: 127.0.0.1:80, nmae: x }]\nservices:\n  orders: { endpoints: [] }\nroutes:\n  - path: /x\n    to: ordres\n",
    );
    assert_eq!(code, Some(1));
    assert_eq!(
        text,
        "f.yaml:1:35: unknown key `nmae`
   |
 1 | listeners: [{ bind: 127.0.0.1:80, nmae: x }]
   |                                   ^^^^
  why: a key that is not understood would have no effect
  fix: did you mean `name`?

f.yaml:3:24: a service without endpoints
   |
 3 |   orders: { endpoints: [] }
   |                        ^
  why: nothing can be sent to it
  fix: name at least one, such as `10.0.0.11:8000`

f.yaml:6:9: no service is named `ordres`
   |
 6 |     to: ordres
   |         ^^^^^^
  why: requests would have nowhere to go
  fix: did you mean `orders`?

3 problems in f.yaml
"
    );
}

#[test]
fn check_accepts_what_is_good() {
    let (code, text) = check("listeners: [{ bind: 127.0.0.1:80 }]\nroutes: [{ path: /*, respond: {} }]\n");
    assert_eq!((code, &*text), (Some(0), "f.yaml: ok\n"));
}

#[test]
fn check_speaks_json() {
    let folder = tempfile::tempdir().expect("a folder");
    write(
        &folder,
        "services: { idle: { endpoints: [10.0.0.1:1] } }\nlisteners: [{ bind: 127.0.0.1:80 }]\nroutes: [{ path: /*, respond: {} }]\n",
    );
    let check = || run(frontdesk().current_dir(folder.path()).args(["check", "--json", "-c", "f.yaml"]));
    let output = check();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((output.status.code(), &json["ok"], &json["file"]), (Some(0), &true.into(), &"f.yaml".into()));
    let warning = &json["problems"][0];
    assert_eq!((&warning["severity"], &warning["line"], &warning["path"]), (&"warning".into(), &1.into(), &"services.idle".into()));
    write(&folder, "listeners: [{ bind: 127.0.0.1:80 }]\nroutes: [{ path: /*, to: x }, { path: /b, too: y }]\n");
    let output = check();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((output.status.code(), &json["ok"], json["problems"].as_array().map(Vec::len)), (Some(1), &false.into(), Some(2)));
    assert_eq!(
        json["problems"][0],
        serde_json::json!({
            "severity": "error", "file": "f.yaml", "line": 2, "column": 26, "path": "routes[0].to", "also": null,
            "what": "no service is named `x`",
            "why": "requests would have nowhere to go",
            "fix": "define it under `services:`, or write a URL such as `http://127.0.0.1:3000`",
        })
    );
    let output = run(frontdesk().args(["check", "--json", "-c", "/no/such/file.yaml"]));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((output.status.code(), &json["ok"]), (Some(1), &false.into()));
}

#[test]
fn a_file_that_is_not_text_or_has_no_end_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("f.yaml");
    std::fs::write(&path, b"a: 1\nb: \xff\n").expect("a file");
    for (file, said) in [(&*path, "line 2 is not UTF-8"), (std::path::Path::new("/dev/zero"), "the file is larger than 16 MiB")] {
        let output = run(frontdesk().args(["check", "-c"]).arg(file));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && text.contains(said), "{text}");
    }
}

#[test]
fn the_schema_is_printed() {
    let output = run(frontdesk().arg("schema"));
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((output.status.code(), &schema["$schema"]), (Some(0), &"https://json-schema.org/draft/2020-12/schema".into()));
    assert_eq!(schema["properties"]["listeners"]["description"], "Where requests come in.");
}

#[test]
fn check_makes_no_file_and_knows_a_log_that_could_not_be_opened() {
    let folder = tempfile::tempdir().expect("a folder");
    let yaml = |log: &str| {
        format!("listeners: [{{ bind: 127.0.0.1:80 }}]\nroutes: [{{ path: /*, respond: {{}} }}]\naccess_log: {{ path: {log} }}\n")
    };
    let log = folder.path().join("access.log");
    assert_eq!(check(&yaml(&log.display().to_string())).0, Some(0));
    assert!(!log.exists());
    let (code, text) = check(&yaml("/no/such/folder/access.log"));
    assert!(code == Some(1) && text.contains("f.yaml:3:21: can't open `/no/such/folder/access.log`"), "{text}");
    let log = folder.path().join("error.log");
    let yaml = |log: &str| yaml("stdout") + &format!("log: {{ path: {log} }}\n");
    assert_eq!(check(&yaml(&log.display().to_string())).0, Some(0));
    assert!(!log.exists());
    let (code, text) = check(&yaml("/no/such/folder/error.log"));
    assert!(code == Some(1) && text.contains("f.yaml:4:14: can't open `/no/such/folder/error.log`"), "{text}");
}

#[test]
fn shells_can_complete_commands() {
    for (shell, mark) in [("bash", "complete -F"), ("zsh", "#compdef frontdesk"), ("fish", "complete -c frontdesk")] {
        let output = run(frontdesk().args(["completions", shell]));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(mark) && text.contains("hash-key"), "{shell}: {text}");
    }
    assert_eq!(run(frontdesk().args(["completions", "tcsh"])).status.code(), Some(2));
}

#[test]
fn the_manual_is_what_the_program_says_of_itself() {
    let page = |of: &[&str]| {
        let output = run(frontdesk().arg("man").args(of));
        (output.status.code(), String::from_utf8(output.stdout).expect("UTF-8"))
    };
    let (code, all) = page(&[]);
    assert!(code == Some(0) && all.contains(".TH frontdesk 1") && all.contains("Exit codes: 0 done"), "{all}");
    for command in ["run", "check", "upgrade", "hash\\-key"] {
        assert!(all.contains(&format!("frontdesk\\-{command}(1)")), "{command} is not in\n{all}");
    }
    let (code, run_page) = page(&["run"]);
    assert!(code == Some(0) && run_page.contains("SIGHUP reloads"), "{run_page}");
    assert_eq!(page(&["fly"]).0, Some(2));
}

#[test]
fn the_version_is_said_to_people_and_to_machines() {
    let said = |arguments: &[&str]| String::from_utf8(run(frontdesk().args(arguments)).stdout).expect("UTF-8");
    let line = said(&["version"]);
    assert_eq!((said(&["--version"]), said(&["-V"])), (line.clone(), line.clone()));
    let json: serde_json::Value = serde_json::from_str(&said(&["version", "--json"])).expect("JSON");
    assert_eq!(line, format!("{} {}\n", json["name"].as_str().expect("a name"), json["version"].as_str().expect("a version")));
}

#[test]
fn version_and_wrong_use() {
    let output = run(frontdesk().arg("version"));
    assert_eq!((output.status.code(), output.stdout), (Some(0), format!("frontdesk {}\n", env!("CARGO_PKG_VERSION")).into_bytes()));
    for wrong in [
        &["nonsense"][..],
        &[],
        &["run", "--bind", "127.0.0.1:0"],
        &["run", "--nope"],
        &["run", "--to", "nonsense"],
        &["run", "--to", "http://127.0.0.1:1", "--bind", "nowhere"],
        &["hash-key", "ada", "--expires", "nonsense"],
    ] {
        assert_eq!(run(frontdesk().args(wrong)).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn run_without_a_file() {
    let origin = Origin::fixed("hello");
    let to = format!("http://{origin}");
    let mut child = frontdesk()
        .args(["run", "--to", &to, "--bind", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the gateway");
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
    let address = lines.find_map(|line| line.split_once("listening on ")?.1.split_once(' ')?.0.parse().ok()).expect("an address");
    assert_eq!(Client::connect(address).get("/x").text(), "hello");
    let line = BufReader::new(child.stdout.take().expect("a pipe")).lines().next().expect("a line").expect("a line");
    assert!(line.contains("\"path\":\"/x\""), "{line}");
    child.kill().expect("the end");
    child.wait().expect("the end");
}

#[test]
fn the_error_log_may_be_the_standard_output() {
    let folder = tempfile::tempdir().expect("a folder");
    write(&folder, "listeners: [{ bind: 127.0.0.1:0 }]\nlog: { path: stdout }\nroutes: [{ path: /*, respond: {} }]\n");
    let mut command = frontdesk();
    command.current_dir(folder.path()).args(["run", "-c", "f.yaml"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the gateway");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let is_ready = lines.into_iter().any(|line| line.contains("ready: "));
    child.kill().expect("the end");
    child.wait().expect("the end");
    assert!(is_ready && !folder.path().join("stdout").exists());
}

#[test]
fn a_port_that_is_taken_is_said_with_its_place() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("f.yaml");
    std::fs::write(&path, format!("listeners:\n  - bind: {address}\nroutes: [{{ path: /*, respond: {{}} }}]\n")).expect("a file");
    let output = run(frontdesk().args(["run", "-c"]).arg(&path));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains(&format!("f.yaml:2:11: can't listen on {address}")) && text.contains("ss -ltnp"), "{text}");
}

#[test]
fn a_file_that_is_not_there_is_said() {
    let output = run(frontdesk().args(["run", "-c", "/no/such/file.yaml"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("/no/such/file.yaml: No such file"));
}

#[test]
fn the_kit_shows_what_a_gateway_said() {
    let gateway = Gateway::start(&format!("listeners: [{{ bind: 127.0.0.1:0 }}]\nroutes: [{{ path: /*, to: http://{} }}]", dead_address()));
    assert_eq!(gateway.get("/").code(), "upstream_connect");
    eventually("the warning", || gateway.log().iter().any(|line| line.contains("WARN")).then_some(()));
}
