//! A token in its compact form (RFC 7515, 3.1), read strictly: what is read in two ways could be believed in one and used in the other.

use crate::config::json;
use crate::types::Refusal;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

pub const BYTES_MAX: usize = 16 << 10;

/// Names in a header by which a token would bring its own key along or ask for one to be fetched (RFC 8725, 3.10).
const FOREIGN_KEYS: [&str; 3] = ["jwk", "jku", "x5u"];

/// A token whose parts could be read. Nothing in it is to be believed yet.
pub struct Compact<'a> {
    pub algorithm: String,
    pub kid: Option<String>,
    /// What is signed: the first two parts, with the dot between them.
    pub signed: &'a str,
    /// As it stands in the token.
    pub signature: &'a str,
    pub payload: Vec<u8>,
}

impl<'a> Compact<'a> {
    /// # Errors
    /// `token_too_large`, `token_malformed`, or `token_algorithm` for `none`.
    pub fn parse(token: &'a str) -> Result<Compact<'a>, Refusal> {
        if token.len() > BYTES_MAX {
            return Err(Refusal::TokenTooLarge);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Refusal::TokenMalformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Refusal::TokenMalformed)?;
        let mut header = json::object(&decode(header)?).ok_or(Refusal::TokenMalformed)?;
        let payload = decode(payload)?;
        // No extension is understood, and one that must be can't be left out (RFC 7515, 4.1.11).
        if header.contains_key("crit") || header.contains_key("b64") || FOREIGN_KEYS.iter().any(|name| header.contains_key(*name)) {
            return Err(Refusal::TokenMalformed);
        }
        let kid = match header.remove("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid),
            Some(_) => return Err(Refusal::TokenMalformed),
        };
        let Some(Value::String(algorithm)) = header.remove("alg") else { return Err(Refusal::TokenMalformed) };
        decode(signature)?;
        if signature.is_empty() && !algorithm.eq_ignore_ascii_case("none") {
            return Err(Refusal::TokenMalformed);
        }
        Ok(Compact { algorithm, kid, signed, signature, payload })
    }

    /// The claims, once the signature has been found right, or for what is decided without belief.
    ///
    /// # Errors
    /// `token_malformed`.
    pub fn claims(&self) -> Result<Map<String, Value>, Refusal> {
        json::object(&self.payload).ok_or(Refusal::TokenMalformed)
    }
}

/// Without padding, and with no bits left over (RFC 4648, 3.5): one text for one value.
pub fn decode(part: &str) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::TokenMalformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn what_is_not_plain_is_refused() {
        let good = token(r#"{"alg":"HS256","kid":"k","typ":"JWT"}"#, "{}");
        assert_eq!(Compact::parse(&good).map(|token| (token.algorithm, token.kid)).ok(), Some(("HS256".into(), Some("k".into()))));
        for header in [
            r#"{"alg":"HS256","crit":["exp"]}"#,
            r#"{"alg":"HS256","alg":"HS256"}"#,
            r#"{"alg":"HS256","jwk":{}}"#,
            r#"{"alg":"HS256","jku":"https://x"}"#,
            r#"{"alg":"HS256","x5u":"https://x"}"#,
            r#"{"alg":"HS256","b64":false}"#,
            r#"{"alg":"HS256","kid":7}"#,
            r#"{"alg":["HS256"]}"#,
            r#"{"typ":"JWT"}"#,
            "[]",
        ] {
            assert_eq!(Compact::parse(&token(header, "{}")).err(), Some(Refusal::TokenMalformed), "{header}");
        }
        for bad in [
            format!("{good}="),
            format!("{good} "),
            format!(" {good}"),
            good.replace('.', ""),
            format!("{good}.x"),
            "..".into(),
            good.replace("c2ln", ""),
        ] {
            assert_eq!(Compact::parse(&bad).err(), Some(Refusal::TokenMalformed), "{bad}");
        }
        assert_eq!(Compact::parse(&"a".repeat(BYTES_MAX + 1)).err(), Some(Refusal::TokenTooLarge));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}|[A-Za-z0-9_=-]{0,20}(\\.[A-Za-z0-9_=-]{0,20}){0,3}") {
            let _ = Compact::parse(&text).map(|token| token.claims().is_ok());
        }

        /// Two tokens that are different texts are different tokens.
        #[test]
        fn a_value_has_one_text(bytes in prop::collection::vec(any::<u8>(), 0..20), at in any::<prop::sample::Index>(), other in any::<u8>()) {
            let text = URL_SAFE_NO_PAD.encode(&bytes);
            prop_assert_eq!(decode(&text).ok(), Some(bytes.clone()));
            if !text.is_empty() {
                let mut changed = text.clone().into_bytes();
                changed[at.index(text.len())] = other;
                if let Ok(changed) = String::from_utf8(changed) && changed != text {
                    prop_assert_ne!(decode(&changed).ok(), Some(bytes));
                }
            }
        }
    }
}
