//! What a credential costs: one that is remembered, and one that is seen for the first time: `cargo bench --bench auth`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use frontdesk::auth::{Access, Outcome, Request, now};
use frontdesk::config::load;
use frontdesk::config::problem::Problems;
use frontdesk::config::source::Sources;
use frontdesk::observe::Metrics;
use frontdesk::snapshot::{Meta, Snapshot, State};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey};
use ring::{digest, hmac};
use std::cell::Cell;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

const SECRET: &str = "a secret that is long enough for HMAC with SHA-256";

fn token(n: u64, algorithm: &str, sign: &dyn Fn(&[u8]) -> Vec<u8>) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let header = part(&format!("{{\"alg\":\"{algorithm}\",\"typ\":\"JWT\"}}"));
    let claims = format!(
        "{{\"sub\":\"user-{n}\",\"iss\":\"https://issuer.example\",\"aud\":\"orders\",\"scope\":\"orders.read orders.write\",\"iat\":{0},\"exp\":{0}}}",
        now() as u64 + 3600
    );
    let signed = format!("{header}.{}", part(&claims));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(sign(signed.as_bytes())))
}

fn head(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}")).expect("a field"));
    headers
}

fn gets_in(access: &Access, headers: &HeaderMap) -> bool {
    let request = Request { headers, query: "", client: IpAddr::V4(Ipv4Addr::LOCALHOST), certificate: None, now: now() };
    matches!(access.check(&request).outcome, Outcome::Admitted(Some(_)))
}

fn tokens(c: &mut Criterion) {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).expect("a key");
    let point = key.public_key().as_ref().to_vec();
    let folder = tempfile::tempdir().expect("a folder");
    let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
    let jwks = format!("{{\"keys\":[{{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"{x}\",\"y\":\"{y}\"}}]}}");
    std::fs::write(folder.path().join("jwks.json"), jwks).expect("a file");
    let text = format!(
        "listeners: [{{ bind: 127.0.0.1:0 }}]\nauth:\n  hs: {{ jwt: {{ secret: {SECRET}, audience: orders }} }}\n  es: {{ jwt: {{ jwks: {}, audience: orders }} }}\nroutes:\n  - {{ path: /hs, auth: hs, respond: {{}} }}\n  - {{ path: /es, auth: es, respond: {{}} }}\n",
        folder.path().join("jwks.json").display()
    );
    let (problems, state) = (Problems::default(), State::dry(Metrics::new().expect("metrics")));
    let raw = load::read(&mut Sources::new("frontdesk.yaml", text), &problems).expect("a configuration");
    let snapshot = Snapshot::build(&raw, Meta::default(), &state, &problems).expect("a snapshot");
    let (hs, es) = (&snapshot.routes[0].access, &snapshot.routes[1].access);
    let secret = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let by_secret = |bytes: &[u8]| hmac::sign(&secret, bytes).as_ref().to_vec();
    let by_key = |bytes: &[u8]| key.sign(&random, bytes).expect("a signature").as_ref().to_vec();
    let next = Cell::new(0);
    let fresh = |algorithm: &str, sign: &dyn Fn(&[u8]) -> Vec<u8>| {
        next.set(next.get() + 1);
        head(&token(next.get(), algorithm, sign))
    };
    let mut group = c.benchmark_group("auth");
    let known = fresh("HS256", &by_secret);
    assert!(gets_in(hs, &known));
    group.bench_function("remembered", |b| b.iter(|| gets_in(hs, black_box(&known))));
    group.bench_function("HS256 cold", |b| {
        b.iter_batched(|| fresh("HS256", &by_secret), |headers| assert!(gets_in(hs, &headers)), BatchSize::SmallInput);
    });
    group.bench_function("ES256 cold", |b| {
        b.iter_batched(|| fresh("ES256", &by_key), |headers| assert!(gets_in(es, &headers)), BatchSize::SmallInput);
    });
    let message = digest::digest(&digest::SHA256, b"as long as a token").as_ref().repeat(9);
    let (signature, public) = (by_key(&message), UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point));
    group.bench_function("ES256 signature alone", |b| b.iter(|| public.verify(black_box(&message), &signature).is_ok()));
}

criterion_group!(benches, tokens);
criterion_main!(benches);
