//! An authority on loopback (RFC 8555): accounts, orders, HTTP-01 and signing, as strict as is needed to notice a wrong client.

use super::{Origin, Request, answer};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair};
use ring::digest::{SHA256, digest};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

pub struct Authority {
    origin: Origin,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Where each domain leads: challenges are asked there, at one after the other.
    doors: Vec<SocketAddr>,
    nonces: HashSet<String>,
    /// Keys by account.
    accounts: HashMap<String, Value>,
    contacts: Vec<Value>,
    orders: Vec<Order>,
    asked: usize,
    /// Domains that are refused whatever they answer.
    is_closed: bool,
}

struct Order {
    domains: Vec<String>,
    is_valid: Vec<Option<bool>>,
    certificate: Option<String>,
}

/// What the account signs with ES256, and the header of the signature.
struct Signed {
    header: Value,
    payload: Value,
}

impl Authority {
    pub fn new() -> Authority {
        let state = Arc::new(Mutex::new(State::default()));
        let key = KeyPair::generate().expect("a key");
        let mut root = CertificateParams::new(Vec::<String>::new()).expect("names");
        root.distinguished_name.push(DnType::CommonName, "the authority");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = Arc::new(Mutex::new(Issuer::new(root, key)));
        let theirs = state.clone();
        let origin = Origin::new(move |request| serve(request, &theirs, &issuer));
        Authority { origin, state }
    }

    pub fn directory(&self) -> String {
        format!("http://{}/directory", self.origin)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the state")
    }

    /// Every domain leads to these, by turns.
    pub fn set_doors(&self, doors: &[SocketAddr]) {
        self.state().doors = doors.to_vec();
    }

    /// Whether all is refused.
    pub fn set_closed(&self, is_closed: bool) {
        self.state().is_closed = is_closed;
    }

    /// The domains of each order so far, and whether it came to a certificate.
    pub fn orders(&self) -> Vec<(Vec<String>, bool)> {
        self.state().orders.iter().map(|order| (order.domains.clone(), order.certificate.is_some())).collect()
    }

    /// What accounts were opened with.
    pub fn contacts(&self) -> Vec<Value> {
        self.state().contacts.clone()
    }
}

/// An answer with a fresh nonce (6.5).
fn said(state: &Mutex<State>, status: u16, location: Option<String>, kind: &str, body: &str) -> Vec<u8> {
    let nonce = URL_SAFE_NO_PAD.encode(fastrand::u128(..).to_be_bytes());
    state.lock().expect("the state").nonces.insert(nonce.clone());
    let mut fields = vec![("Replay-Nonce", nonce.as_str()), ("Content-Type", kind)];
    let location = location.unwrap_or_default();
    if !location.is_empty() {
        fields.push(("Location", &location));
    }
    answer(status, &fields, body.as_bytes())
}

fn problem(state: &Mutex<State>, kind: &str, detail: &str) -> Vec<u8> {
    let body = json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail, "status": 400 });
    said(state, 400, None, "application/problem+json", &body.to_string())
}

fn decode(text: &Value) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.as_str()?).ok()
}

/// The thumbprint of a key (RFC 7638).
fn thumbprint(key: &Value) -> String {
    let text = format!(r#"{{"crv":{},"kty":{},"x":{},"y":{}}}"#, key["crv"], key["kty"], key["x"], key["y"]);
    URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))
}

/// Reads a request's signature (6.2): its nonce, its URL and its key have to be right.
fn verify(request: &Request, base: &str, state: &Mutex<State>) -> Result<Signed, &'static str> {
    let body: Value = serde_json::from_slice(&request.body).map_err(|_| "malformed")?;
    let header = decode(&body["protected"]).and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()).ok_or("malformed")?;
    let mut state = state.lock().expect("the state");
    if !state.nonces.remove(header["nonce"].as_str().unwrap_or_default()) {
        return Err("badNonce");
    }
    if header["url"] != format!("{base}{}", request.target) || header["alg"] != "ES256" {
        return Err("unauthorized");
    }
    let is_first = request.target == "/account";
    let key = if is_first { Some(&header["jwk"]) } else { state.accounts.get(header["kid"].as_str().unwrap_or_default()) };
    let key = key.ok_or("accountDoesNotExist")?;
    let point = [vec![4], decode(&key["x"]).ok_or("badPublicKey")?, decode(&key["y"]).ok_or("badPublicKey")?].concat();
    let signed = format!("{}.{}", body["protected"].as_str().unwrap_or_default(), body["payload"].as_str().unwrap_or_default());
    let signature = decode(&body["signature"]).ok_or("malformed")?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed.as_bytes(), &signature).map_err(|_| "unauthorized")?;
    let payload = decode(&body["payload"]).unwrap_or_default();
    Ok(Signed { header, payload: serde_json::from_slice(&payload).unwrap_or_default() })
}

/// Asks for the proof as the authority does (8.3): by plain HTTP.
fn fetch(door: SocketAddr, domain: &str, token: &str) -> String {
    let asked = TcpStream::connect(door).and_then(|mut stream| {
        write!(stream, "GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nHost: {domain}\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    let text = asked.unwrap_or_default();
    let body = text.strip_prefix("HTTP/1.1 200").and_then(|rest| rest.split_once("\r\n\r\n")).map_or("", |(_, body)| body);
    body.to_string()
}

fn serve(request: &Request, state: &Mutex<State>, issuer: &Mutex<Issuer<'static, KeyPair>>) -> Vec<u8> {
    let base = format!("http://{}", request.header("host").unwrap_or_default());
    let told = |status, location, body: Value| said(state, status, location, "application/json", &body.to_string());
    match request.target.as_str() {
        "/directory" => {
            let url = |name: &str| format!("{base}/{name}");
            let (nonce, account, order) = (url("nonce"), url("account"), url("order"));
            return told(200, None, json!({ "newNonce": nonce, "newAccount": account, "newOrder": order, "revokeCert": url("revoke") }));
        }
        "/nonce" => return said(state, 200, None, "text/plain", ""),
        _ => {}
    }
    let signed = match verify(request, &base, state) {
        Ok(signed) => signed,
        Err(kind) => return problem(state, kind, "The request is not signed as it should be."),
    };
    let parts: Vec<&str> = request.target.trim_start_matches('/').split('/').collect();
    let number = |n: usize| parts.get(n).and_then(|text| text.parse::<usize>().ok()).unwrap_or(usize::MAX);
    match parts[0] {
        "account" => {
            let mut known = state.lock().expect("the state");
            let id = format!("{base}/account/{}", known.accounts.len());
            known.accounts.insert(id.clone(), signed.header["jwk"].clone());
            known.contacts.push(signed.payload["contact"].clone());
            drop(known);
            told(201, Some(id), json!({ "status": "valid" }))
        }
        "order" if parts.len() == 1 => {
            let identifiers = signed.payload["identifiers"].as_array().cloned().unwrap_or_default();
            let domains: Vec<String> = identifiers.iter().filter_map(|one| Some(one["value"].as_str()?.to_string())).collect();
            let mut known = state.lock().expect("the state");
            let is_valid = vec![None; domains.len()];
            known.orders.push(Order { domains, is_valid, certificate: None });
            let place = known.orders.len() - 1;
            let body = describe(&known.orders[place], place, &base);
            drop(known);
            told(201, Some(format!("{base}/order/{place}")), body)
        }
        "order" => {
            let place = number(1);
            let body = describe(&state.lock().expect("the state").orders[place], place, &base);
            told(200, None, body)
        }
        "authorization" => {
            let (place, nth) = (number(1), number(2));
            let known = state.lock().expect("the state");
            let order = &known.orders[place];
            let status = match order.is_valid[nth] {
                None => "pending",
                Some(true) => "valid",
                Some(false) => "invalid",
            };
            let mut challenge = json!({ "type": "http-01", "url": format!("{base}/challenge/{place}/{nth}"), "status": status, "token": token(place, nth) });
            if order.is_valid[nth] == Some(false) {
                challenge["error"] =
                    json!({ "type": "urn:ietf:params:acme:error:unauthorized", "detail": "Somebody else answered.", "status": 403 });
            }
            let body = json!({ "status": status, "identifier": { "type": "dns", "value": order.domains[nth] }, "challenges": [challenge] });
            drop(known);
            told(200, None, body)
        }
        "challenge" => {
            let (place, nth) = (number(1), number(2));
            let mut known = state.lock().expect("the state");
            let key = known.accounts[signed.header["kid"].as_str().unwrap_or_default()].clone();
            let domain = known.orders[place].domains[nth].clone();
            known.asked += 1;
            let door = known.doors.get(known.asked % known.doors.len().max(1)).copied();
            let is_closed = known.is_closed;
            drop(known);
            let wanted = format!("{}.{}", token(place, nth), thumbprint(&key));
            let is_right = door.is_some_and(|door| fetch(door, &domain, &token(place, nth)) == wanted) && !is_closed;
            state.lock().expect("the state").orders[place].is_valid[nth] = Some(is_right);
            let url = format!("{base}/challenge/{place}/{nth}");
            told(200, None, json!({ "type": "http-01", "url": url, "status": "processing", "token": token(place, nth) }))
        }
        "finalize" => {
            let place = number(1);
            let request = decode(&signed.payload["csr"]).expect("a request");
            let mut request = CertificateSigningRequestParams::from_der(&request.into()).expect("a request");
            request.params.not_before = rcgen::date_time_ymd(2026, 1, 1);
            request.params.not_after = rcgen::date_time_ymd(2096, 1, 1);
            let made = request.signed_by(&*issuer.lock().expect("the issuer")).expect("a certificate").pem();
            let mut known = state.lock().expect("the state");
            known.orders[place].certificate = Some(made);
            let body = describe(&known.orders[place], place, &base);
            drop(known);
            told(200, None, body)
        }
        "certificate" => {
            let pem = state.lock().expect("the state").orders[number(1)].certificate.clone().unwrap_or_default();
            said(state, 200, None, "application/pem-certificate-chain", &pem)
        }
        other => problem(state, "malformed", other),
    }
}

fn token(place: usize, nth: usize) -> String {
    format!("token-{place}_{nth}")
}

fn describe(order: &Order, place: usize, base: &str) -> Value {
    let status = match (&order.certificate, &order.is_valid[..]) {
        (Some(_), _) => "valid",
        (None, all) if all.contains(&Some(false)) => "invalid",
        (None, all) if all.iter().all(|one| *one == Some(true)) => "ready",
        _ => "pending",
    };
    let authorizations: Vec<String> = (0..order.domains.len()).map(|nth| format!("{base}/authorization/{place}/{nth}")).collect();
    json!({
        "status": status, "authorizations": authorizations, "finalize": format!("{base}/finalize/{place}"),
        "identifiers": order.domains.iter().map(|domain| json!({ "type": "dns", "value": domain })).collect::<Vec<_>>(),
        "certificate": order.certificate.as_ref().map(|_| format!("{base}/certificate/{place}")),
    })
}
