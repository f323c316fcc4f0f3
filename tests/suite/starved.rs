//! Descriptors run out: the gateway turns clients away, lives, and is itself again when there are some.

use crate::kit::{Client, Gateway, Origin, eventually, head};
use std::net::TcpStream;
use std::process::Command;

#[test]
fn without_descriptors_clients_are_turned_away_and_later_served_again() {
    let origin = Origin::fixed("served");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_frontdesk")]);
    let yaml = format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
server: {{ threads: 1 }}
routes: [{{ path: /*, to: 'http://{origin}' }}, {{ path: /fixed, respond: {{ body: fixed }} }}]
"
    );
    let gateway = Gateway::start_by(command, tempfile::tempdir().expect("a folder"), &yaml);
    let mut kept = gateway.connect();
    assert_eq!(kept.get("/fixed").status, 200);
    let mut held: Vec<TcpStream> = Vec::new();
    eventually("no descriptor is left", || {
        held.extend((0..20).map_while(|_| Client::try_connect(gateway.address())));
        gateway.log().iter().any(|line| line.contains("clients are turned away")).then_some(())
    });
    // Who is in is served, and who comes is told so or closed, and not left waiting.
    assert_eq!(kept.get("/fixed").status, 200);
    let mut late = gateway.connect();
    let told = late.try_send(head("GET", "/fixed", &[], 0)).and_then(|()| late.try_answer("GET"));
    assert!(told.as_ref().map_or_else(|e| e.kind() != std::io::ErrorKind::WouldBlock, |answer| answer.status == 503), "{told:?}");
    drop((held, late));
    eventually("service again", || {
        let mut client = gateway.connect();
        let told = client.try_send(head("GET", "/x", &[], 0)).and_then(|()| client.try_answer("GET"));
        told.is_ok_and(|answer| answer.text() == "served").then_some(())
    });
    drop(kept);
    gateway.wait_until_idle();
    assert!(gateway.log().iter().filter(|line| line.contains("clients are turned away")).count() <= 2, "the log is flooded");
}
