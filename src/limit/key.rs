//! Who counts as one: what of a request becomes a bucket's key.

use super::store::{Key, PolicyId, Store};
use crate::config::raw::By;
use http::HeaderMap;
use ring::digest::{Context, SHA256};
use std::borrow::Cow;
use std::hash::Hasher;
use std::net::IpAddr;

/// What is known of whoever asks.
pub struct Caller<'a> {
    pub identity: Option<Who<'a>>,
    /// A claim of the identity, by name.
    pub claim: &'a dyn Fn(&str) -> Option<Cow<'a, str>>,
    pub client_ip: IpAddr,
    pub headers: &'a HeaderMap,
}

/// Somebody who was recognised. One name may be several people's, each known to another method.
#[derive(Clone, Copy)]
pub struct Who<'a> {
    pub method: &'a str,
    pub name: &'a str,
}

/// Parts of different kinds never meet.
mod kind {
    pub const CLIENT_IP: u8 = 1;
    pub const IDENTITY: u8 = 2;
    pub const HEADER: u8 = 3;
    pub const CLAIM: u8 = 4;
    pub const ROUTE: u8 = 5;
    pub const LIMIT: u8 = 6;
}

/// The key of a policy's bucket. `route` stands for the route, whatever it is called.
pub fn key(store: &Store, policy: PolicyId, by: &[By], route: u64, caller: &Caller<'_>) -> Key {
    let mut hasher = store.hasher();
    policy.feed(&mut hasher);
    by.iter().for_each(|by| feed(&mut hasher, by, route, caller));
    use siphasher::sip128::Hasher128;
    let hash = hasher.finish128();
    Key([hash.h1, hash.h2])
}

/// What gateways that share a limit call the same key: they agree on it whatever their process, and it tells nobody who it is of.
/// `limit` is what they have to agree on to count together.
pub fn shared_name(limit: &str, by: &[By], route: u64, caller: &Caller<'_>) -> Box<str> {
    let mut digest = Sha256(Context::new(&SHA256));
    feed_text(&mut digest, kind::LIMIT, limit.as_bytes());
    by.iter().for_each(|by| feed(&mut digest, by, route, caller));
    let digest = digest.0.finish();
    let digits = digest.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("frontdesk:{digits}").into()
}

/// Takes what a key is made of where nobody may find two that meet, though the way is known.
struct Sha256(Context);

impl Hasher for Sha256 {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    /// Not asked for: the digest is longer.
    fn finish(&self) -> u64 {
        0
    }
}

fn feed(hasher: &mut impl Hasher, by: &By, route: u64, caller: &Caller<'_>) {
    match by {
        By::ClientIp => feed_address(hasher, caller.client_ip),
        By::Identity => match caller.identity {
            Some(who) => {
                feed_text(hasher, kind::IDENTITY, who.method.as_bytes());
                feed_text(hasher, kind::IDENTITY, who.name.as_bytes());
            }
            None => feed_address(hasher, caller.client_ip),
        },
        By::Claim(name) => match (caller.claim)(name) {
            Some(value) => feed_text(hasher, kind::CLAIM, value.as_bytes()),
            None => feed_address(hasher, caller.client_ip),
        },
        By::Header(name) => {
            let mut values = caller.headers.get_all(name).iter().peekable();
            if values.peek().is_none() {
                feed_address(hasher, caller.client_ip);
            }
            values.for_each(|value| feed_text(hasher, kind::HEADER, value.as_bytes()));
        }
        By::Route => {
            hasher.write_u8(kind::ROUTE);
            hasher.write_u64(route);
        }
        By::Global => {}
    }
}

/// With its length before it, so that no two lists of texts are the same bytes.
fn feed_text(hasher: &mut impl Hasher, kind: u8, text: &[u8]) {
    hasher.write_u8(kind);
    hasher.write_usize(text.len());
    hasher.write(text);
}

/// IPv6 by /64, which is what one customer is given (RFC 6177).
fn feed_address(hasher: &mut impl Hasher, address: IpAddr) {
    hasher.write_u8(kind::CLIENT_IP);
    match address {
        IpAddr::V4(address) => hasher.write_u32(address.to_bits()),
        IpAddr::V6(address) => hasher.write_u64((address.to_bits() >> 64) as u64),
    }
}

/// The same for people; what may be secret is left out.
pub fn shown(by: &[By], route: &str, caller: &Caller<'_>) -> String {
    let address = || match caller.client_ip {
        IpAddr::V4(address) => format!("client_ip {address}"),
        IpAddr::V6(address) => {
            format!("client_ip {}/64", std::net::Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
    };
    let part = |by: &By| match by {
        By::ClientIp => address(),
        By::Identity => caller.identity.map_or_else(address, |who| format!("identity {}", who.name)),
        By::Claim(name) if (caller.claim)(name).is_some() => format!("claim {name}"),
        By::Header(name) if caller.headers.contains_key(name) => format!("header {name}"),
        By::Claim(_) | By::Header(_) => address(),
        By::Route => format!("route {route}"),
        By::Global => "everybody".to_string(),
    };
    by.iter().map(part).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::pace::Pace;

    #[test]
    fn keys_are_told_apart_by_what_they_are_of() {
        let store = Store::default();
        let pace = Pace::new("1/s".parse().expect("a rate"), 1, 1).expect("a pace");
        let (one, other) = (store.add_policy(pace, None), store.add_policy(pace, None));
        let headers = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-user", http::HeaderValue::from_static(value));
            }
            headers
        };
        let header = By::Header("x-user".parse().expect("a name"));
        let of = |policy, by: &[By], route, identity, ip: &str, headers: &HeaderMap| {
            let claim = |name: &str| (name == "plan").then_some(Cow::Borrowed("gold"));
            let caller = Caller { identity, claim: &claim, client_ip: ip.parse().expect("an address"), headers };
            key(&store, policy, by, route, &caller)
        };
        let who = |method, name| Some(Who { method, name });
        let none = headers(&[]);
        let a = of(one, &[By::ClientIp], 1, None, "10.0.0.1", &none);
        assert_eq!(a, of(one, &[By::Identity], 1, None, "10.0.0.1", &none), "no identity falls back");
        assert_eq!(a, of(one, std::slice::from_ref(&header), 1, None, "10.0.0.1", &none), "no header falls back");
        assert_eq!(a, of(one, &[By::Claim("none".into())], 2, None, "10.0.0.1", &none), "no claim falls back");
        let six = |ip| of(one, &[By::ClientIp], 1, None, ip, &none);
        assert_eq!(six("2001:db8::1"), six("2001:db8::ffff:0:0:1"));
        let different = [
            a,
            of(other, &[By::ClientIp], 1, None, "10.0.0.1", &none),
            of(one, &[By::ClientIp], 1, None, "10.0.0.2", &none),
            six("2001:db8::1"),
            six("2001:db8:0:1::1"),
            of(one, &[By::Identity], 1, who("keys", "10.0.0.1"), "10.0.0.1", &none),
            of(one, &[By::Identity], 1, who("keys", "alice"), "10.0.0.1", &none),
            of(one, &[By::Identity], 1, who("tokens", "alice"), "10.0.0.1", &none),
            of(one, &[By::Identity], 1, who("key", "salice"), "10.0.0.1", &none),
            of(one, &[By::Claim("plan".into())], 1, None, "10.0.0.1", &none),
            of(one, &[By::Route], 1, None, "10.0.0.1", &none),
            of(one, &[By::Route], 2, None, "10.0.0.1", &none),
            of(one, &[By::Global], 2, None, "10.0.0.1", &none),
            of(one, &[By::ClientIp, By::Route], 1, None, "10.0.0.1", &none),
            of(one, std::slice::from_ref(&header), 1, None, "10.0.0.1", &headers(&["a", "b"])),
            of(one, std::slice::from_ref(&header), 1, None, "10.0.0.1", &headers(&["ab"])),
            of(one, std::slice::from_ref(&header), 1, None, "10.0.0.1", &headers(&["gold"])),
        ];
        let mut sorted = different.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), different.len());
    }
}
