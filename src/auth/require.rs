//! What somebody who is recognised has to have, and which addresses may come at all.

use crate::config::raw::auth as raw;
use crate::types::{Identity, Refusal};
use ipnet::{IpNet, Ipv4Net};
use serde_json::Value;
use std::borrow::Cow;
use std::net::IpAddr;

/// Scopes and claims.
#[derive(Debug, Default)]
pub struct Require {
    pub(super) all: Vec<String>,
    pub(super) any: Vec<String>,
    pub(super) claims: Vec<(String, raw::Claim)>,
}

impl Require {
    pub fn build(raw: &raw::Require) -> Require {
        let list = |texts: &Option<crate::config::shape::OneOrMany<String>>| texts.iter().flat_map(|texts| texts.0.clone()).collect();
        Require { all: list(&raw.scopes_all), any: list(&raw.scopes_any), claims: raw.claims.0.clone() }
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.any.is_empty() && self.claims.is_empty()
    }

    /// The scopes that are asked for, as WWW-Authenticate wants them (RFC 6750, 3).
    pub fn scopes(&self) -> String {
        self.all.iter().chain(&self.any).map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    /// For people.
    pub fn shown(&self) -> impl Iterator<Item = String> {
        let all = (!self.all.is_empty()).then(|| format!("all scopes of {}", self.all.join(" ")));
        let any = (!self.any.is_empty()).then(|| format!("any scope of {}", self.any.join(" ")));
        let claims = self.claims.iter().map(|(path, wanted)| match wanted {
            raw::Claim::OneOf(values) => format!("claim {path} of {}", values.join(", ")),
            raw::Claim::Contains(values) => format!("claim {path} with {}", values.join(", ")),
        });
        all.into_iter().chain(any).chain(claims)
    }

    /// # Errors
    /// `forbidden_scope` or `forbidden_claim`.
    pub fn check(&self, identity: &Identity) -> Result<(), Refusal> {
        let has = |scope: &String| identity.scopes().any(|own| own == scope);
        if !self.all.iter().all(has) || !(self.any.is_empty() || self.any.iter().any(has)) {
            return Err(Refusal::ForbiddenScope);
        }
        let fits = |(path, wanted): &(String, raw::Claim)| identity.claim(path).is_some_and(|claim| fits(claim, wanted));
        match self.claims.iter().all(fits) {
            true => Ok(()),
            false => Err(Refusal::ForbiddenClaim),
        }
    }
}

fn fits(claim: &Value, wanted: &raw::Claim) -> bool {
    let items = match claim {
        Value::Array(items) => &items[..],
        one => std::slice::from_ref(one),
    };
    let has = |wanted: &String| items.iter().any(|item| scalar(item).is_some_and(|item| item == *wanted));
    match wanted {
        raw::Claim::OneOf(values) => values.iter().any(has),
        raw::Claim::Contains(values) => claim.is_array() && values.iter().all(has),
    }
}

fn scalar(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(text.into()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Addresses that may come, and those that may not.
#[derive(Debug, Default)]
pub struct Addresses {
    /// Everybody when `None`.
    pub(super) allow: Option<Vec<IpNet>>,
    pub(super) deny: Vec<IpNet>,
}

impl Addresses {
    pub fn build(raw: &raw::Addresses) -> Addresses {
        let networks = |list: &[crate::config::raw::Network]| list.iter().map(|network| unmapped(network.0)).collect();
        Addresses { allow: raw.allow.as_ref().map(|list| networks(&list.0)), deny: networks(&raw.deny) }
    }

    pub fn is_empty(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty()
    }

    /// For people.
    pub fn shown(&self) -> impl Iterator<Item = String> {
        let list = |networks: &[IpNet]| networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let allow = self.allow.as_deref().map(|networks| format!("an address of {}", list(networks)));
        let deny = (!self.deny.is_empty()).then(|| format!("no address of {}", list(&self.deny)));
        allow.into_iter().chain(deny)
    }

    /// What is denied is denied even if it is allowed.
    pub fn admit(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let is_in = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&client));
        !is_in(&self.deny) && self.allow.as_deref().is_none_or(is_in)
    }
}

/// `::ffff:10.0.0.0/104` is 10.0.0.0/8: clients are known by their IPv4 addresses.
pub fn unmapped(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    let prefix = v6.prefix_len().checked_sub(96);
    let v4 = v6.addr().to_ipv4_mapped().zip(prefix).and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok());
    v4.map_or(network, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::problem::Problems;
    use crate::config::shape::{Node, Shape};

    fn read<T: Shape>(yaml: &str) -> T {
        let (value, problems) = (serde_yaml::from_str(yaml).expect("YAML"), Problems::default());
        T::read(&Node { value: &value, at: &crate::config::place::At::root(), problems: &problems }).expect("a part")
    }

    #[test]
    fn scopes_and_claims() {
        let Value::Object(claims) = serde_json::json!({
            "scope": "orders.read orders.write", "plan": "gold", "level": 3, "verified": true, "realm_access": { "roles": ["cook", "boss"] },
        }) else {
            panic!("a map")
        };
        let identity = Identity { name: "n".into(), method: "m".into(), claims };
        for (yaml, expected) in [
            ("{}", Ok(())),
            ("scopes_all: [orders.read, orders.write]", Ok(())),
            ("scopes_all: orders.read", Ok(())),
            ("scopes_all: [orders.read, orders.delete]", Err(Refusal::ForbiddenScope)),
            ("scopes_any: [orders.delete, orders.read]", Ok(())),
            ("scopes_any: orders", Err(Refusal::ForbiddenScope)),
            ("claims: { plan: gold, level: 3, verified: true }", Ok(())),
            ("claims: { plan: [silver, gold] }", Ok(())),
            ("claims: { plan: [silver] }", Err(Refusal::ForbiddenClaim)),
            ("claims: { realm_access.roles: boss }", Ok(())),
            ("claims: { realm_access.roles: { contains: [boss, cook] } }", Ok(())),
            ("claims: { realm_access.roles: { contains: [boss, guest] } }", Err(Refusal::ForbiddenClaim)),
            ("claims: { plan: { contains: gold } }", Err(Refusal::ForbiddenClaim)),
            ("claims: { absent: '' }", Err(Refusal::ForbiddenClaim)),
        ] {
            assert_eq!(Require::build(&read(yaml)).check(&identity), expected, "{yaml}");
        }
    }

    #[test]
    fn addresses() {
        let of = |yaml: &str, client: &str| Addresses::build(&read(yaml)).admit(client.parse().expect("an address"));
        for (yaml, client, admitted) in [
            ("{}", "192.0.2.1", true),
            ("deny: [192.0.2.0/24]", "192.0.2.1", false),
            ("deny: [192.0.2.0/24]", "::ffff:192.0.2.1", false),
            ("deny: ['::ffff:192.0.2.0/120']", "192.0.2.1", false),
            ("{ allow: [192.0.2.0/24], deny: [192.0.2.1] }", "192.0.2.1", false),
            ("{ allow: [192.0.2.0/24], deny: [192.0.2.1] }", "192.0.2.2", true),
            ("allow: 192.0.2.0/24", "2001:db8::1", false),
            ("allow: [0.0.0.0/0, '::/0']", "2001:db8::1", true),
        ] {
            assert_eq!(of(yaml, client), admitted, "{yaml} {client}");
        }
    }
}
