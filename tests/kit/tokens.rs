//! Tokens, made without the code under test.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use ring::{hmac, rsa};
use serde_json::{Value, json};
use std::path::Path;

pub const SECRET: &str = "a secret of sixty-four bytes, which is as long as SHA-512 wants it";

pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Seconds since 1970, and so many more.
pub fn in_seconds(more: i64) -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs();
    i64::try_from(now).expect("a time") + more
}

/// A token as it is, signed with a shared secret.
pub fn hs256(secret: &str, header: &str, payload: &str) -> String {
    let signed = format!("{}.{}", base64url(header), base64url(payload));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", base64url(tag))
}

/// A token that is good for an hour, with these claims and [`SECRET`].
pub fn token(claims: Value) -> String {
    let mut all = json!({ "sub": "ada", "exp": in_seconds(3600) });
    for (name, value) in claims.as_object().expect("a map") {
        match value {
            Value::Null => drop(all.as_object_mut().expect("a map").remove(name)),
            value => all[name] = value.clone(),
        }
    }
    hs256(SECRET, r#"{"alg":"HS256","typ":"JWT"}"#, &all.to_string())
}

/// A private key that signs tokens.
pub enum Signer {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair, &'static str),
    Ed(Ed25519KeyPair),
    Hmac,
}

impl Signer {
    /// A key of that algorithm; openssl makes it and writes its public half to `FILE.pem`.
    #[track_caller]
    pub fn new(folder: &Path, file: &str, algorithm: &str) -> Signer {
        let kind: &[&str] = match algorithm {
            "ES256" => &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            "ES384" => &["EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
            "EdDSA" => &["ED25519"],
            name if name.starts_with("HS") => return Signer::Hmac,
            _ => &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        };
        let (private, public) = (folder.join(format!("{file}.der")), folder.join(format!("{file}.pem")));
        let openssl = |arguments: &[&str], paths: &[&Path]| {
            let output = super::run(std::process::Command::new("openssl").args(arguments).args(paths));
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        openssl(&[&["genpkey", "-quiet", "-outform", "DER", "-algorithm"], kind, &["-out"]].concat(), &[&private]);
        openssl(&["pkey", "-pubout", "-inform", "DER", "-in"], &[&private, Path::new("-out"), &public]);
        let whole = folder.join(format!("{file}.p8"));
        openssl(&["pkcs8", "-topk8", "-nocrypt", "-inform", "DER", "-outform", "DER", "-in"], &[&private, Path::new("-out"), &whole]);
        let der = std::fs::read(&whole).expect("the key");
        let random = SystemRandom::new();
        let ec = |known: &'static signature::EcdsaSigningAlgorithm| EcdsaKeyPair::from_pkcs8(known, &der, &random).expect("a key");
        match algorithm {
            "ES256" => Signer::Ec(ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING), "P-256"),
            "ES384" => Signer::Ec(ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING), "P-384"),
            "EdDSA" => Signer::Ed(Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).expect("a key")),
            _ => Signer::Rsa(RsaKeyPair::from_pkcs8(&der).expect("a key")),
        }
    }

    /// A signed token.
    pub fn sign(&self, algorithm: &str, kid: Option<&str>, claims: &Value) -> String {
        let mut header = json!({ "alg": algorithm });
        if let Some(kid) = kid {
            header["kid"] = kid.into();
        }
        let signed = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
        let random = SystemRandom::new();
        let bytes = match self {
            Signer::Rsa(key) => {
                let padding: &dyn signature::RsaEncoding = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_SHA256,
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    _ => &signature::RSA_PSS_SHA512,
                };
                let mut bytes = vec![0; key.public().modulus_len()];
                key.sign(padding, &random, signed.as_bytes(), &mut bytes).expect("a signature");
                bytes
            }
            Signer::Ec(key, _) => key.sign(&random, signed.as_bytes()).expect("a signature").as_ref().to_vec(),
            Signer::Ed(key) => key.sign(signed.as_bytes()).as_ref().to_vec(),
            Signer::Hmac => {
                let hash = match algorithm {
                    "HS256" => hmac::HMAC_SHA256,
                    "HS384" => hmac::HMAC_SHA384,
                    _ => hmac::HMAC_SHA512,
                };
                hmac::sign(&hmac::Key::new(hash, SECRET.as_bytes()), signed.as_bytes()).as_ref().to_vec()
            }
        };
        format!("{signed}.{}", base64url(bytes))
    }

    /// Its public half as a JWK.
    pub fn jwk(&self, kid: &str) -> Value {
        match self {
            Signer::Rsa(key) => {
                let public: rsa::PublicKeyComponents<Vec<u8>> = key.public().into();
                json!({ "kty": "RSA", "kid": kid, "use": "sig", "n": base64url(public.n), "e": base64url(public.e) })
            }
            Signer::Ec(key, curve) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at((key.public_key().as_ref().len() - 1) / 2);
                json!({ "kty": "EC", "kid": kid, "crv": curve, "x": base64url(x), "y": base64url(y) })
            }
            Signer::Ed(key) => json!({ "kty": "OKP", "kid": kid, "crv": "Ed25519", "x": base64url(key.public_key()) }),
            Signer::Hmac => json!({ "kty": "oct", "kid": kid, "k": base64url(SECRET) }),
        }
    }
}
