//! Signatures, checked by `ring`, which is here for TLS already: a backend for `jsonwebtoken`, which brings none of its own.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::hmac;
use ring::rsa::PublicKeyComponents;
use ring::signature::{self as known, RsaParameters, UnparsedPublicKey, VerificationAlgorithm};
use signature::Verifier;

static PROVIDER: CryptoProvider =
    CryptoProvider { signer_factory: signer, verifier_factory: verifier, key_utils: KeyUtils::new_unimplemented() };

/// Makes it known. More than once does no harm.
pub fn install() {
    let _ = PROVIDER.install_default();
}

/// A gateway signs nothing.
fn signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    // The key says what it is for, not the token: no public key is ever an HMAC secret.
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    let check = match Known::of(*algorithm)? {
        Known::Hmac(hash) => Check::Hmac(hmac::Key::new(hash, key.try_get_as_bytes()?)),
        Known::Rsa(parameters) => match key.kind() {
            DecodingKeyKind::SecretOrDer(der) => Check::Public(UnparsedPublicKey::new(parameters, der.clone())),
            DecodingKeyKind::RsaModulusExponent { n, e } => Check::Rsa(parameters, PublicKeyComponents { n: n.clone(), e: e.clone() }),
        },
        Known::Other(algorithm) => Check::Public(UnparsedPublicKey::new(algorithm, key.try_get_as_bytes()?.to_vec())),
    };
    Ok(Box::new(Checker { algorithm: *algorithm, check }))
}

/// What `ring` calls an algorithm.
enum Known {
    Hmac(hmac::Algorithm),
    Rsa(&'static RsaParameters),
    Other(&'static dyn VerificationAlgorithm),
}

impl Known {
    fn of(algorithm: Algorithm) -> Result<Known, Error> {
        Ok(match algorithm {
            Algorithm::HS256 => Known::Hmac(hmac::HMAC_SHA256),
            Algorithm::HS384 => Known::Hmac(hmac::HMAC_SHA384),
            Algorithm::HS512 => Known::Hmac(hmac::HMAC_SHA512),
            Algorithm::RS256 => Known::Rsa(&known::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::RS384 => Known::Rsa(&known::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::RS512 => Known::Rsa(&known::RSA_PKCS1_2048_8192_SHA512),
            Algorithm::PS256 => Known::Rsa(&known::RSA_PSS_2048_8192_SHA256),
            Algorithm::PS384 => Known::Rsa(&known::RSA_PSS_2048_8192_SHA384),
            Algorithm::PS512 => Known::Rsa(&known::RSA_PSS_2048_8192_SHA512),
            Algorithm::ES256 => Known::Other(&known::ECDSA_P256_SHA256_FIXED),
            Algorithm::ES384 => Known::Other(&known::ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDSA => Known::Other(&known::ED25519),
            // The enum is open; what is added to it is not known here.
            _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
        })
    }
}

struct Checker {
    algorithm: Algorithm,
    check: Check,
}

enum Check {
    Hmac(hmac::Key),
    Public(UnparsedPublicKey<Vec<u8>>),
    Rsa(&'static RsaParameters, PublicKeyComponents<Vec<u8>>),
}

impl JwtVerifier for Checker {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for Checker {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match &self.check {
            Check::Hmac(key) => hmac::verify(key, message, signature),
            Check::Public(key) => key.verify(message, signature),
            Check::Rsa(parameters, key) => key.verify(parameters, message, signature),
        };
        verified.map_err(|_| signature::Error::new())
    }
}
