//! `include:` and `defaults:`: one configuration out of many files, and what holds for all of its routes.

use crate::kit::{Gateway, Origin, Signer, certificate, dead_address, frontdesk, run};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, text).expect("a file");
}

#[test]
fn files_add_services_and_routes_in_the_order_of_their_names() {
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let folder = tempfile::tempdir().expect("a folder");
    write(
        folder.path(),
        "routes.d/10-one.yaml",
        &format!("x-free: 1\nservices: {{ one: {{ endpoints: [{one}] }} }}\nroutes: [{{ path: /one, to: one }}]\n"),
    );
    write(
        folder.path(),
        "routes.d/20-two.yaml",
        &format!("services: {{ two: {{ endpoints: [{two}] }} }}\nroutes: [{{ path: /two, to: two }}]\n"),
    );
    write(folder.path(), "routes.d/not-this.txt", "nonsense");
    // A service of one file is there for the routes of all.
    write(folder.path(), "more.yaml", "routes: [{ path: /more, to: two }]\n");
    let yaml =
        "listeners: [{ bind: 127.0.0.1:0 }]\ninclude: [\"routes.d/*.yaml\", more.yaml]\nroutes: [{ path: /, respond: { body: main } }]\n";
    let gateway = Gateway::start_in(folder, yaml);
    let said = ["/", "/one", "/two", "/more"].map(|path| gateway.get(path).text());
    assert_eq!(said, ["main", "one", "two", "two"]);
    // What is included is read again with the rest, and a mistake in it leaves all as it was.
    let hash = |gateway: &Gateway| gateway.ask("/status").json()["snapshot"]["hash"].clone();
    let before = hash(&gateway);
    write(gateway.folder(), "more.yaml", "routes: [{ path: /more, to: three }]\n");
    assert!(!gateway.reload(yaml));
    gateway.wait_for_log("more.yaml:1:29: no service is named `three`");
    write(gateway.folder(), "more.yaml", "routes: [{ path: /more, to: one }]\n");
    assert!(gateway.reload(yaml));
    assert_eq!(gateway.get("/more").text(), "one");
    assert_ne!(hash(&gateway), before);
}

#[test]
fn defaults_hold_for_routes_that_do_not_say_otherwise() {
    // It takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let to = silent.local_addr().expect("an address");
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
defaults: {{ timeouts: {{ read: 100ms }} }}
services: {{ silent: {{ endpoints: [{to}], timeouts: {{ read: 1h }} }} }}
routes: [{{ path: /default, to: silent }}, {{ path: /own, to: silent, timeouts: {{ read: 700ms }} }}]
"
    ));
    for (path, least) in [("/default", 100), ("/own", 700)] {
        let started = Instant::now();
        assert_eq!(gateway.get(path).code(), "upstream_timeout");
        assert!(started.elapsed() >= Duration::from_millis(least), "{path}: {:?}", started.elapsed());
    }
}

#[test]
fn two_hundred_files_of_twenty_thousand_routes_load_soon() {
    let folder = tempfile::tempdir().expect("a folder");
    for file in 0..200 {
        let mut text = format!("services: {{ s{file}: {{ endpoints: [{}] }} }}\nroutes:\n", dead_address());
        for route in 0..100 {
            text += &format!(
                "  - {{ name: r-{file}-{route}, host: h{}.example, path: \"/f{file}/r{route}/{{id}}\", methods: [GET], to: s{file} }}\n",
                route % 7
            );
        }
        write(folder.path(), &format!("routes.d/{file:03}.yaml"), &text);
    }
    write(folder.path(), "f.yaml", "listeners: [{ bind: 127.0.0.1:0 }]\ninclude: routes.d/*.yaml\n");
    let started = Instant::now();
    let output = run(frontdesk().args(["check", "-c"]).arg(folder.path().join("f.yaml")));
    println!("{:?}", started.elapsed());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Generous: it is a build without optimisation, on machines that do other things.
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    // As many problems as routes, too.
    write(folder.path(), "f.yaml", "listeners: [{ bind: 127.0.0.1:0 }]\ninclude: routes.d/*.yaml\nservices: 5\n");
    for file in 0..200 {
        let path = folder.path().join(format!("routes.d/{file:03}.yaml"));
        let text = fs::read_to_string(&path).expect("a file");
        fs::write(&path, text.replace(" to: s", " to: t")).expect("a file");
    }
    write(folder.path(), "f.yaml", "listeners: [{ bind: 127.0.0.1:0 }]\ninclude: routes.d/*.yaml\n");
    let started = Instant::now();
    let output = run(frontdesk().args(["check", "-c"]).arg(folder.path().join("f.yaml")));
    println!("{:?}", started.elapsed());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("and 19900 more") && said.contains("20000 problems in"), "{}", &said[said.len() - 500..]);
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[test]
fn paths_are_relative_to_the_file_in_which_they_stand() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(folder.path().join("conf/tls")).expect("a folder");
    certificate(&folder.path().join("conf/tls"), "cert", &["a.example"]);
    let main = "listeners: [{ bind: 127.0.0.1:443, tls: { certificates: [{ cert: tls/cert.pem, key: tls/cert.key }] } }]
include: parts/more.yaml
auth: { staff: { basic: { users: users.yaml } }, keyed: { api_key: { header: X-Api-Key, keys: keys.yaml } }, of: { jwt: { jwks: jwks.json } } }
routes: [{ path: /*, auth: [staff, keyed, of], respond: {} }]
";
    let more = "services: { more: { endpoints_file: endpoints.yaml, tls: { ca: ../tls/cert.pem } } }
routes: [{ path: /more, request: { body: { schema: order.json } }, to: more }]
";
    let key = Signer::new(folder.path(), "key", "ES256").jwk("k");
    let jwks = serde_json::json!({ "keys": [key] }).to_string();
    let [users, keys, endpoints, order] = ["conf/users.yaml", "conf/keys.yaml", "conf/parts/endpoints.yaml", "conf/parts/order.json"];
    for (name, text) in [
        ("conf/f.yaml", main),
        ("conf/parts/more.yaml", more),
        (users, "[]"),
        (keys, "[]"),
        ("conf/jwks.json", &jwks),
        (endpoints, "[10.0.0.1:1]"),
        (order, "{}"),
    ] {
        write(folder.path(), name, text);
    }
    // Those of the same names in the working directory are others.
    for name in ["users.yaml", "keys.yaml", "jwks.json", "endpoints.yaml", "order.json"] {
        write(folder.path(), name, "nonsense");
    }
    let check = |at: &str, file: &Path| {
        let output = run(frontdesk().current_dir(folder.path().join(at)).args(["check", "-c"]).arg(file));
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    for (at, file) in [(".", Path::new("conf/f.yaml")), ("conf", Path::new("f.yaml")), ("conf/tls", &folder.path().join("conf/f.yaml"))] {
        let (code, said) = check(at, file);
        assert_eq!(code, Some(0), "{at}: {said}");
    }
    for name in [users, keys, endpoints, order] {
        fs::remove_file(folder.path().join(name)).expect("a file");
    }
    let (code, said) = check(".", Path::new("conf/f.yaml"));
    let missing = |name: &str| said.contains(&format!("`{name}`"));
    assert!(code == Some(1) && [users, keys, endpoints, order].into_iter().all(missing), "{said}");
}

#[test]
fn a_variable_that_is_empty_has_its_default() {
    let text = "listeners: [{ bind: 127.0.0.1:0 }]\nroutes: [{ path: /, respond: { body: '<${FD_SET:-x}|${FD_EMPTY:-x}|${FD_NONE:-x}|${FD_EMPTY}>' } }]\n";
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = Gateway::start_with(folder, text, &[("FD_SET", "set"), ("FD_EMPTY", "")]);
    assert_eq!(gateway.get("/").text(), "<set|x|x|>");
}
