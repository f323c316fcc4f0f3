//! Certificates that an authority signs because the domain leads here: ordered, kept, renewed, shared.

use crate::kit::{Authority, Gateway, eventually, secure, shown};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Whether a client is shown what the authority has signed.
fn is_signed(address: SocketAddr, name: &str) -> bool {
    let Ok(stream) = secure(address, name, &[]) else { return false };
    let leaf = shown(&stream);
    let (_, leaf) = X509Certificate::from_der(&leaf).expect("a certificate");
    leaf.issuer().to_string().contains("the authority")
}

fn yaml(authority: &Authority, store: &Path, domains: &str) -> String {
    format!(
        "
listeners:
  - {{ name: plain, bind: 127.0.0.1:0 }}
  - {{ name: tls, bind: 127.0.0.1:0, tls: {{ acme: {{ domains: {domains}, email: ops@a.example, directory: '{}', store: {} }} }} }}
routes: [{{ path: /*, redirect: {{ status: 308, to: 'https://a.example/${{rest}}' }} }}]
",
        authority.directory(),
        store.display()
    )
}

/// All files in a folder and below it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map_while(Result::ok).map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Waits for the note of a failure.
#[track_caller]
fn note(store: &Path) -> PathBuf {
    eventually("a failure", || files(store).into_iter().find(|path| path.extension().is_some_and(|last| last == "failed")))
}

#[test]
fn the_first_certificate_comes_by_itself_and_is_shown_without_a_reload() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().expect("a folder"));
    let store = folder.path().join("acme");
    // Nobody is asked yet: what is shown meanwhile is the gateway's own.
    let gateway = Gateway::start(&yaml(&authority, &store, "[a.example, b.example]"));
    let tls = gateway.address_of("tls");
    assert!(secure(tls, "a.example", &[]).is_ok() && !is_signed(tls, "a.example"));
    assert_eq!(gateway.ask("/status").json()["listeners"][1]["certificates"], serde_json::json!([]));
    // It was refused, since no domain led anywhere. The operator mends that, and has it tried at once.
    let failed = note(&store);
    gateway.wait_for_log("the domains could not be proved: a.example: Somebody else answered.");
    authority.set_doors(&[gateway.address_of("plain")]);
    fs::remove_file(failed).expect("the note");
    eventually("the certificate", || (is_signed(tls, "a.example") && is_signed(tls, "b.example")).then_some(()));
    let domains = vec!["a.example".to_string(), "b.example".to_string()];
    assert_eq!(authority.orders(), [(domains.clone(), false), (domains, true)]);
    // One account for both.
    assert_eq!(authority.contacts(), [serde_json::json!(["mailto:ops@a.example"])]);
    let expires = || gateway.metric("frontdesk_certificate_expiry_seconds{name=\"a.example\"}");
    eventually("its end", || (expires() > 3.9e9).then_some(()));
    // Everything is the owner's alone, and no answer is left.
    let modes: Vec<u32> = files(&store).iter().map(|path| fs::metadata(path).expect("a file").permissions().mode() & 0o777).collect();
    assert!(modes.iter().all(|mode| *mode == 0o600), "{modes:?}");
    assert!(!files(&store).iter().any(|path| path.parent().is_some_and(|folder| folder.ends_with("challenges"))));
    // Another process goes on with it, and orders nothing.
    assert_eq!(gateway.upgrade().0, 0);
    assert!(is_signed(tls, "a.example"));
    assert_eq!(authority.orders().len(), 2);
}

#[test]
fn gateways_that_share_a_store_order_once_and_answer_for_each_other() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().expect("a folder"));
    let store = folder.path().join("acme");
    let domains = "[a.example, b.example, c.example, d.example]";
    // Closed until both are there, so that either may be the one that orders.
    authority.set_closed(true);
    let gateways = [(); 2].map(|()| Gateway::start(&yaml(&authority, &store, domains)));
    let doors = [0, 1].map(|n| gateways[n].address_of("plain"));
    let failed = note(&store);
    // The domains lead to one and the other by turns.
    authority.set_doors(&doors);
    authority.set_closed(false);
    let before = authority.orders().len();
    fs::remove_file(failed).expect("the note");
    for gateway in &gateways {
        let tls = gateway.address_of("tls");
        eventually("the certificate", || is_signed(tls, "d.example").then_some(()));
    }
    let orders = authority.orders();
    assert_eq!((orders.len(), orders.last().map(|(_, is_done)| *is_done), authority.contacts().len()), (before + 1, Some(true), 1));
}

#[test]
fn it_is_renewed_before_its_end_and_when_another_name_is_wanted() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().expect("a folder"));
    let store = folder.path().join("acme");
    let closed = yaml(&authority, &store, "a.example");
    authority.set_closed(true);
    let gateway = Gateway::start(&closed);
    let tls = gateway.address_of("tls");
    let failed = note(&store);
    // One that was ordered long ago, and is good for a while.
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut old = rcgen::CertificateParams::new(vec!["a.example".to_string()]).expect("a name");
    (old.not_before, old.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2028, 1, 1));
    let old = old.self_signed(&key).expect("a certificate");
    let file = failed.with_extension("pem");
    fs::write(&file, key.serialize_pem() + &old.pem()).expect("a file");
    let expires = || gateway.metric("frontdesk_certificate_expiry_seconds{name=\"a.example\"}");
    eventually("the old one", || (secure(tls, "a.example", &[]).is_ok_and(|stream| shown(&stream) == *old.der())).then_some(()));
    eventually("its end", || (1.8e9..1.9e9).contains(&expires()).then_some(()));
    authority.set_doors(&[gateway.address_of("plain")]);
    authority.set_closed(false);
    fs::remove_file(failed).expect("the note");
    eventually("the new one", || is_signed(tls, "a.example").then_some(()));
    // Another name: the old one is shown until the new one is there.
    assert!(gateway.reload(&yaml(&authority, &store, "[a.example, b.example]")));
    assert!(is_signed(tls, "a.example"));
    let named = || {
        let leaf = shown(&secure(tls, "b.example", &[]).expect("a connection"));
        let (_, leaf) = X509Certificate::from_der(&leaf).expect("a certificate");
        let names = leaf.subject_alternative_name().ok().flatten().map_or(0, |names| names.value.general_names.len());
        (names == 2).then_some(())
    };
    eventually("the other name", named);
    assert_eq!(files(&store).iter().filter(|path| path.extension().is_some_and(|last| last == "pem")).count(), 1);
}

#[test]
fn what_nobody_has_asked_to_be_proved_is_the_routes_business() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().expect("a folder"));
    authority.set_closed(true);
    let gateway = Gateway::start(&yaml(&authority, folder.path(), "a.example"));
    let plain = || crate::kit::Client::connect(gateway.address_of("plain"));
    let answer = plain().get("/.well-known/acme-challenge/unknown");
    assert_eq!((answer.status, answer.header("location")), (308, Some("https://a.example/.well-known/acme-challenge/unknown")));
    assert_eq!(plain().get("/.well-known/acme-challenge/..%2Flock").status, 308);
}
