//! Whatever a peer claims, there is some client, and what is sent on is well-formed.
#![no_main]

use frontdesk::shape::forward::{Forwarded, Origin, TRACEPARENT, Trace, X_FORWARDED_FOR, request_id};
use http::{HeaderMap, HeaderValue, header::FORWARDED};
use libfuzzer_sys::fuzz_target;
use std::net::IpAddr;

fuzz_target!(|bytes: &[u8]| {
    let mut headers = HeaderMap::new();
    // One field a line, of each kind by turns, so that fields are repeated.
    for (line, name) in bytes.split(|b| *b == b'\n').zip([X_FORWARDED_FOR, TRACEPARENT, FORWARDED].iter().cycle()) {
        let Ok(value) = HeaderValue::from_bytes(line) else { return };
        headers.append(name, value);
    }
    let trusted = ["10.0.0.0/8".parse().expect("a network")];
    for (peer, is_trusted) in [("10.0.0.1", true), ("192.0.2.1", false)] {
        let ip: IpAddr = peer.parse().expect("an address");
        let origin = Origin::of(ip, &trusted, &headers);
        assert!(origin.is_trusted == is_trusted && origin.peer_ip == ip && (is_trusted || origin.client_ip == ip));
        let host = headers.get(FORWARDED);
        let made = Forwarded::new(&origin, &HeaderValue::from_static(peer), true, host, &headers).expect("values");
        assert!(made.x_forwarded_for.to_str().is_ok_and(|chain| chain.ends_with(peer)));
        assert!(!request_id(&origin, &headers).is_empty());
    }
    let next = Trace::next(Trace::of(&headers)).header();
    assert!(next.len() == 55 && next.as_bytes().starts_with(b"00-") && next.to_str().is_ok());
});
