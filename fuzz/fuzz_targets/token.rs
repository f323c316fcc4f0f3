//! Credentials: what is read of a token is what stands in it, and one that was taken out of a request is not in it any more.
#![no_main]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use frontdesk::auth::credential::{Found, Place};
use frontdesk::auth::token::Compact;
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderValue, Uri};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str, Vec<&[u8]>)| {
    let (header, payload, fields) = input;
    for token in [header.to_string(), format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))] {
        if let Ok(read) = Compact::parse(&token) {
            assert_eq!(format!("{}.{}", read.signed, read.signature), token);
            let (_, encoded) = read.signed.split_once('.').expect("two parts");
            assert_eq!(URL_SAFE_NO_PAD.encode(&read.payload), encoded, "one text for one value");
            let _ = read.claims();
        }
    }
    let mut headers = HeaderMap::new();
    for (value, name) in fields.iter().zip([COOKIE, AUTHORIZATION].iter().cycle()) {
        let Ok(value) = HeaderValue::from_bytes(value) else { return };
        headers.append(name, value);
    }
    let Ok(mut uri) = payload.parse::<Uri>() else { return };
    for place in [Place::Cookie("a".into()), Place::Query("a".into()), Place::Header(AUTHORIZATION, Some("Bearer".into()))] {
        place.remove(&mut headers, &mut uri);
        // Several fields that are not for us are unclear to us, and go on.
        let left = place.find(&headers, uri.query().unwrap_or_default());
        assert!(!matches!(left, Found::One(_)), "{place:?} in {headers:?} {uri}");
    }
});
