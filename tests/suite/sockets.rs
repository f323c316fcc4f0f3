//! Unix sockets, for clients and for the operator.

use crate::kit::{Gateway, Origin, curl, frontdesk, run};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

fn gateway(origin: &Origin) -> Gateway {
    Gateway::start(&format!(
        "
listeners: [{{ bind: \"unix:DIR/http.sock\" }}]
admin: {{ bind: \"unix:DIR/admin.sock\" }}
routes: [{{ path: /*, to: http://{origin} }}]
"
    ))
}

fn get(socket: &Path, more: &[&str]) -> String {
    curl(&[&["--unix-socket", &socket.display().to_string(), "http://localhost/x"], more].concat())
}

/// Exit code and what was said.
fn tell(arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(frontdesk().args(arguments));
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn requests_come_in_by_a_file() {
    let origin = Origin::echo();
    let gateway = gateway(&origin);
    let socket = gateway.file("http.sock");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let echo: serde_json::Value = serde_json::from_str(&get(&socket, &[version])).expect("an echo");
        assert_eq!((&echo["target"], &echo["headers"]["x-forwarded-for"][0]), (&"/x".into(), &"127.0.0.1".into()));
    }
    assert_eq!(gateway.access_log(2)[0]["client_ip"], "127.0.0.1");
    let mode = |path: &Path| std::fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!((mode(&socket), mode(&gateway.file("admin.sock"))), (0o666, 0o600));
}

#[test]
fn commands_speak_to_a_file_too() {
    let origin = Origin::echo();
    let mut gateway = gateway(&origin);
    let file = gateway.file("frontdesk.yaml").display().to_string();
    let url = format!("unix:{}", gateway.file("admin.sock").display());
    let (code, status) = tell(&["status", "-c", &file]);
    assert!(code == Some(0) && status.contains(&format!("listener unnamed: unix:{}", gateway.file("http.sock").display())), "{status}");
    assert_eq!(tell(&["status", "--admin", &url]).0, Some(0));
    assert_eq!(tell(&["reload", "-c", &file]), (Some(0), "reloaded: version 2 runs\n".to_string()));
    let (code, said) = tell(&["upgrade", "-c", &file]);
    assert!(code == Some(0) && said.contains("has taken over"), "{said}");
    assert_eq!(gateway.wait().code(), Some(0));
    // The files stay where they are: they are the new process's.
    assert!(get(&gateway.file("http.sock"), &[]).contains("/x"));
    assert_eq!(tell(&["drain", "-c", &file]).0, Some(0));
    assert!(!gateway.file("http.sock").exists() && !gateway.file("admin.sock").exists());
    let (code, why) = tell(&["status", "-c", &file]);
    assert!(code == Some(1) && why.contains("does not answer"), "{why}");
}

#[test]
fn a_reload_adds_and_removes_them() {
    let gateway = Gateway::start("listeners: [{ name: a, bind: 127.0.0.1:0 }]\nroutes: [{ path: /*, respond: { body: hello } }]\n");
    let with =
        "listeners: [{ name: a, bind: 127.0.0.1:0 }, { bind: \"unix:DIR/http.sock\" }]\nroutes: [{ path: /*, respond: { body: hello } }]\n";
    assert!(gateway.reload(with));
    assert_eq!(get(&gateway.file("http.sock"), &[]), "hello");
    assert!(gateway.reload(&with.replace(", { bind: \"unix:DIR/http.sock\" }", "")));
    assert!(!gateway.file("http.sock").exists());
}

#[test]
fn a_file_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(UnixListener::bind(folder.path().join("http.sock")).expect("a socket"));
    let gateway = Gateway::start_in(
        folder,
        "listeners: [{ bind: \"unix:DIR/http.sock\" }, { bind: 127.0.0.1:0 }]\nroutes: [{ path: /*, respond: { body: hello } }]\n",
    );
    assert_eq!(get(&gateway.file("http.sock"), &[]), "hello");
    std::fs::write(gateway.file("notes"), "mine").expect("a file");
    let theirs = UnixListener::bind(gateway.file("theirs.sock")).expect("a socket");
    for name in ["notes", "theirs.sock"] {
        let bad = format!("listeners: [{{ bind: \"unix:DIR/{name}\" }}]\nroutes: [{{ path: /*, respond: {{}} }}]\n");
        assert!(!gateway.reload(&bad), "{name}");
    }
    assert_eq!(std::fs::read_to_string(gateway.file("notes")).expect("a file"), "mine");
    assert!(UnixStream::connect(gateway.file("theirs.sock")).is_ok());
    drop(theirs);
}
