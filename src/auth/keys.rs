//! Keys that tokens are signed with: JWK sets (RFC 7517), PEM files, shared secrets. Each key says which algorithms it is for.

use super::crypto;
use super::token::{Compact, decode};
use crate::config::json;
use crate::types::Refusal;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use ring::digest::{SHA256, digest};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use serde_json::{Map, Value};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate, parse_x509_pem};
use x509_parser::public_key::{PublicKey, RSAPublicKey};

/// More than any issuer has.
const KEYS_MAX: usize = 100;
/// So many keys are tried for a token that names none.
const TRIES_MAX: usize = 4;

/// What tells a key from all others: the hash of what it consists of.
pub type KeyId = [u8; 32];

pub struct Key {
    pub id: KeyId,
    kid: Option<Box<str>>,
    /// Those that it may be used with.
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

/// The keys of one issuer. There is at least one.
#[derive(Debug)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// A shared secret. RFC 7518, 3.2: it must be at least as long as the hash.
    ///
    /// # Errors
    /// It is too short for each algorithm.
    pub fn secret(secret: &[u8]) -> Result<Keys, String> {
        let algorithms = hmac(secret.len());
        if algorithms.is_empty() {
            return Err(format!("a secret of {} bytes is too short", secret.len()));
        }
        Ok(Keys(vec![Key::new(None, algorithms, DecodingKey::from_secret(secret), &[secret])]))
    }

    /// A PEM file with a public key (RFC 7468, 13; of RSA also RFC 8017, A.1.1) or a certificate.
    ///
    /// # Errors
    /// What it is instead.
    pub fn pem(pem: &[u8]) -> Result<Keys, String> {
        if let Some((_, pem)) = parse_x509_pem(pem).ok().filter(|(_, read)| read.label == "RSA PUBLIC KEY") {
            let (_, rsa) = RSAPublicKey::from_der(&pem.contents).map_err(|_| "its public key can't be parsed")?;
            return Ok(Keys(vec![Key::rsa(None, strip(rsa.modulus), strip(rsa.exponent), &rsa_all())?]));
        }
        let info = SubjectPublicKeyInfoDer::from_pem_slice(pem).map(|info| info.to_vec());
        let info = info.or_else(|_| {
            let certificate = CertificateDer::from_pem_slice(pem).map_err(|_| "it has neither a public key nor a certificate")?;
            let parsed = X509Certificate::from_der(&certificate).map_err(|_| "its certificate can't be parsed")?;
            Ok::<_, String>(parsed.1.public_key().raw.to_vec())
        })?;
        let (_, info) = SubjectPublicKeyInfo::from_der(&info).map_err(|_| "its public key can't be parsed")?;
        let bytes = &info.subject_public_key.data;
        let key = match info.parsed() {
            Ok(PublicKey::RSA(rsa)) => Key::rsa(None, strip(rsa.modulus), strip(rsa.exponent), &rsa_all())?,
            Ok(PublicKey::EC(_)) if bytes.len() == 65 => Key::new(None, vec![Algorithm::ES256], DecodingKey::from_ec_der(bytes), &[bytes]),
            Ok(PublicKey::EC(_)) if bytes.len() == 97 => Key::new(None, vec![Algorithm::ES384], DecodingKey::from_ec_der(bytes), &[bytes]),
            _ if bytes.len() == 32 && info.algorithm.algorithm.to_id_string() == "1.3.101.112" => {
                Key::new(None, vec![Algorithm::EdDSA], DecodingKey::from_ed_der(bytes), &[bytes])
            }
            _ => return Err("its key is none of RSA, P-256, P-384 and Ed25519".to_string()),
        };
        Ok(Keys(vec![key]))
    }

    /// A JWK set. Keys for other uses are left out. `allows_secrets` is for files: nobody publishes a secret.
    ///
    /// # Errors
    /// It is no such set, has no key that can be used, or is ambiguous: two keys of one name, or secrets beside public keys.
    pub fn jwks(text: &[u8], allows_secrets: bool) -> Result<Keys, String> {
        let mut set = json::object(text).ok_or("it is not a JSON object without doubled names")?;
        let Some(Value::Array(items)) = set.remove("keys") else { return Err("it has no list of `keys`".to_string()) };
        if items.len() > KEYS_MAX {
            return Err(format!("it has more than {KEYS_MAX} keys"));
        }
        let (mut keys, mut names, mut why) = (Vec::new(), Vec::new(), "it has no key for signatures".to_string());
        for item in &items {
            match item.as_object().ok_or_else(|| "one of its keys is not an object".to_string()).and_then(Key::jwk) {
                Ok(None) => continue,
                Ok(Some(key)) => keys.push(key),
                Err(what) => why = what,
            }
            // One that can't be used has a name all the same.
            names.extend(item["kid"].as_str());
        }
        let is_secret = |key: &Key| key.decoding.family() == AlgorithmFamily::Hmac;
        if keys.is_empty() {
            return Err(why);
        }
        if keys.iter().any(is_secret) && (!allows_secrets || !keys.iter().all(is_secret)) {
            return Err("it has a secret where public keys are".to_string());
        }
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("it has two keys with the kid `{}`", twice[0]));
        }
        Ok(Keys(keys))
    }

    pub fn contains(&self, id: &KeyId) -> bool {
        self.0.iter().any(|key| key.id == *id)
    }

    /// All algorithms that a key may be used with.
    pub fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        self.0.iter().flat_map(|key| key.algorithms.iter().copied())
    }

    /// Checks a signature, and answers the key that it was made with. `allowed` narrows the algorithms.
    ///
    /// # Errors
    /// `token_algorithm`, `token_key_unknown` or `token_signature`.
    pub fn verify(&self, token: &Compact<'_>, allowed: Option<&[Algorithm]>) -> Result<&Key, Refusal> {
        let algorithm: Algorithm = token.algorithm.parse().map_err(|_| Refusal::TokenAlgorithm)?;
        if allowed.is_some_and(|allowed| !allowed.contains(&algorithm)) {
            return Err(Refusal::TokenAlgorithm);
        }
        // A key without a name, such as a PEM file's, is for tokens with any.
        let is_meant = |key: &&Key| token.kid.is_none() || key.kid.is_none() || key.kid.as_deref() == token.kid.as_deref();
        let named: Vec<&Key> = self.0.iter().filter(is_meant).collect();
        let fitting: Vec<&&Key> = named.iter().filter(|key| key.algorithms.contains(&algorithm)).collect();
        match fitting[..] {
            _ if named.is_empty() || fitting.len() > TRIES_MAX => Err(Refusal::TokenKeyUnknown),
            [] => Err(Refusal::TokenAlgorithm),
            _ => {
                let is_right = |key: &&&&Key| {
                    jsonwebtoken::crypto::verify(token.signature, token.signed.as_bytes(), &key.decoding, algorithm)
                        .is_ok_and(|right| right)
                };
                fitting.iter().find(is_right).map(|key| **key).ok_or(Refusal::TokenSignature)
            }
        }
    }
}

impl Key {
    fn new(kid: Option<&str>, algorithms: Vec<Algorithm>, decoding: DecodingKey, material: &[&[u8]]) -> Key {
        crypto::install();
        let id = digest(&SHA256, &material.concat());
        Key { id: id.as_ref().try_into().unwrap_or_default(), kid: kid.map(Into::into), algorithms, decoding }
    }

    /// One key of a set; nothing when it is for another use.
    fn jwk(jwk: &Map<String, Value>) -> Result<Option<Key>, String> {
        let text = |name: &str| match jwk.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(format!("`{name}` of a key is not a text")),
        };
        let kid = text("kid")?;
        let bytes = |name: &str| {
            let of = kid.map(|kid| format!(" `{kid}`")).unwrap_or_default();
            let missing = || format!("the key{of} has no `{name}`");
            decode(text(name)?.ok_or_else(missing)?).map_err(|_| format!("`{name}` of the key{of} is not base64url"))
        };
        let verifies =
            |operations: &Value| operations.as_array().is_some_and(|list| list.iter().any(|one| one == "verify" || one == "sign"));
        if text("use")?.is_some_and(|usage| usage != "sig") || jwk.get("key_ops").is_some_and(|operations| !verifies(operations)) {
            return Ok(None);
        }
        let key = match (text("kty")?, text("crv")?) {
            (Some("RSA"), _) => Key::rsa(kid, &bytes("n")?, &bytes("e")?, &rsa_all())?,
            (Some("EC"), Some("P-256")) => Key::ec(kid, &bytes("x")?, &bytes("y")?, 32, Algorithm::ES256)?,
            (Some("EC"), Some("P-384")) => Key::ec(kid, &bytes("x")?, &bytes("y")?, 48, Algorithm::ES384)?,
            (Some("OKP"), Some("Ed25519")) => match bytes("x")? {
                x if x.len() == 32 => Key::new(kid, vec![Algorithm::EdDSA], DecodingKey::from_ed_der(&x), &[&x]),
                _ => return Err("an Ed25519 key has 32 bytes".to_string()),
            },
            (Some("oct"), _) => {
                let secret = bytes("k")?;
                match hmac(secret.len()) {
                    short if short.is_empty() => return Err("a secret is shorter than 32 bytes".to_string()),
                    algorithms => Key::new(kid, algorithms, DecodingKey::from_secret(&secret), &[&secret]),
                }
            }
            _ => return Ok(None),
        };
        // RFC 7517, 4.4: the algorithm that it is intended for, and no other.
        let Some(own) = text("alg")? else { return Ok(Some(key)) };
        let Ok(own) = own.parse() else { return Ok(None) };
        match key.algorithms.contains(&own) {
            true => Ok(Some(Key { algorithms: vec![own], ..key })),
            false => Err("a key's `alg` does not go with what it is".to_string()),
        }
    }

    fn rsa(kid: Option<&str>, n: &[u8], e: &[u8], algorithms: &[Algorithm]) -> Result<Key, String> {
        let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
        if !(2048..=8192).contains(&bits) {
            return Err(format!("an RSA key of {bits} bits, which is not from 2048 to 8192"));
        }
        if e.len() > 4 || e.last().is_none_or(|last| last % 2 == 0) || e == [1] || e.first() == Some(&0) {
            return Err("an RSA key whose exponent is not an odd number from 3 up".to_string());
        }
        if is_roca(n) {
            return Err("an RSA key that can be factored (CVE-2017-15361)".to_string());
        }
        Ok(Key::new(kid, algorithms.to_vec(), DecodingKey::from_rsa_raw_components(n, e), &[n, e]))
    }

    fn ec(kid: Option<&str>, x: &[u8], y: &[u8], bytes: usize, algorithm: Algorithm) -> Result<Key, String> {
        if x.len() != bytes || y.len() != bytes {
            return Err(format!("a key of this curve has coordinates of {bytes} bytes"));
        }
        let point = [&[4], x, y].concat();
        Ok(Key::new(kid, vec![algorithm], DecodingKey::from_ec_der(&point), &[&point]))
    }
}

fn rsa_all() -> [Algorithm; 6] {
    use Algorithm::{PS256, PS384, PS512, RS256, RS384, RS512};
    [RS256, RS384, RS512, PS256, PS384, PS512]
}

/// The HMACs that a secret is long enough for (RFC 7518, 3.2).
fn hmac(bytes: usize) -> Vec<Algorithm> {
    let all = [(Algorithm::HS256, 32), (Algorithm::HS384, 48), (Algorithm::HS512, 64)];
    all.into_iter().filter(|(_, min)| bytes >= *min).map(|(algorithm, _)| algorithm).collect()
}

/// Without the zero that DER puts before a high bit.
fn strip(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|byte| **byte == 0).count()..]
}

/// Keys of a chip whose primes all lie in a small group: modulo each of these primes the modulus is a power of 65537 (Nemec et al.,
/// The return of Coppersmith's attack, 2017, 2.3).
fn is_roca(n: &[u8]) -> bool {
    const PRIMES: [u32; 17] = [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157];
    PRIMES.iter().all(|prime| {
        let rest = n.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime);
        let powers = std::iter::successors(Some(1), |power| Some(power * 65537 % prime).filter(|next| *next != 1));
        powers.take(*prime as usize).any(|power| power == rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A set of keys, as a group of vectors has it: its public half, or the secret.
    fn set(group: &Value) -> Result<Keys, String> {
        let half = group.get("public").unwrap_or(&group["private"]);
        let set = if half.get("keys").is_some() { half.clone() } else { serde_json::json!({ "keys": [half] }) };
        Keys::jwks(set.to_string().as_bytes(), true)
    }

    /// Project Wycheproof's vectors for JWS and JWK, from the files that FRONTDESK_WYCHEPROOF names with a colon between them.
    #[test]
    fn wycheproof() {
        let Some(files) = std::env::var_os("FRONTDESK_WYCHEPROOF") else { return };
        for file in std::env::split_paths(&files) {
            let vectors: Value = serde_json::from_slice(&std::fs::read(&file).expect("a file")).expect("JSON");
            let (mut right, mut all) = (0, 0);
            for group in vectors["testGroups"].as_array().expect("groups") {
                let keys = set(group);
                for case in group["tests"].as_array().expect("tests") {
                    let text = case["jws"].as_str().map_or_else(|| case["jws"].to_string(), str::to_string);
                    let verified = keys.as_ref().map_err(Clone::clone).and_then(|keys| {
                        let token = Compact::parse(&text).map_err(|refusal| refusal.code().to_string())?;
                        keys.verify(&token, None).map(drop).map_err(|refusal| refusal.code().to_string())
                    });
                    all += 1;
                    match verified.is_ok() == (case["result"] == "valid") {
                        true => right += 1,
                        false => println!("{} {} ({}): {verified:?}", group["comment"], case["tcId"], case["comment"]),
                    }
                }
            }
            println!("{}: {right} of {all} decided rightly", file.display());
        }
    }

    #[test]
    fn sets_that_are_ambiguous_or_useless_are_refused() {
        let (n, k) = ("w".repeat(342) + "Q", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8");
        let rsa = format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB","kid":"a"}}"#);
        let oct = format!(r#"{{"kty":"oct","k":"{k}","kid":"b"}}"#);
        let read = |keys: &str, allows_secrets: bool| Keys::jwks(format!("{{\"keys\":[{keys}]}}").as_bytes(), allows_secrets);
        assert!(read(&rsa, false).is_ok() && read(&oct, true).is_ok());
        assert!(read(&format!(r#"{rsa},{{"kty":"OKP","crv":"X25519","x":"AA"}},{{"kty":"new"}}"#), false).is_ok());
        for (keys, allows_secrets, why) in [
            (&*oct, false, "a secret where public keys are"),
            (&format!("{rsa},{oct}"), true, "a secret where public keys are"),
            (&format!("{rsa},{rsa}"), true, "two keys with the kid `a`"),
            (&rsa.replace("AQAB", "AQ"), true, "exponent"),
            (&rsa.replace(&n, &n[..160]), true, "bits"),
            (&rsa.replace("RSA\"", "RSA\",\"use\":\"enc\""), true, "no key for signatures"),
            (&rsa.replace("RSA\"", "RSA\",\"alg\":\"ES256\""), true, "does not go with what it is"),
            (&oct.replace(k, &k[..40]), true, "shorter than 32 bytes"),
            ("", true, "no key for signatures"),
            ("7", true, "not an object"),
        ] {
            let read = read(keys, allows_secrets);
            assert!(read.as_ref().is_err_and(|said| said.contains(why)), "{why}: {read:?}");
        }
    }
}
