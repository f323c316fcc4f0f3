//! What a route asks of who comes, beside what it asked before: whether somebody gets in now who did not.

use super::access::Access;
use super::cors::{Cors, Origin};
use super::require::{Addresses, Require};
use crate::config::raw::auth::Claim;
use ipnet::IpNet;

impl Access {
    /// What `new` does not ask any more, for people.
    pub fn looser(&self, new: &Access) -> Vec<String> {
        let mut looser = Vec::new();
        let (before, after) = (self.asks(), new.asks());
        let everybody = |asks: &[&str]| asks.is_empty() || asks.contains(&super::ANONYMOUS);
        if !everybody(&before) {
            if everybody(&after) {
                looser.push("nobody has to be recognised any more".to_string());
            } else {
                looser.extend(
                    after.iter().filter(|name| !before.contains(name)).map(|name| format!("who is recognised by `{name}` gets in too")),
                );
            }
        }
        // Where nobody is recognised, nobody is asked for scopes.
        if !after.is_empty() || before.is_empty() {
            self.require().looser(new.require(), &mut looser);
        }
        self.addresses().looser(new.addresses(), &mut looser);
        looser
    }
}

impl Require {
    fn looser(&self, new: &Require, looser: &mut Vec<String>) {
        for scope in self.all.iter().filter(|scope| !new.all.contains(scope)) {
            looser.push(format!("the scope `{scope}` is not asked for any more"));
        }
        if !self.any.is_empty() {
            // One of a few is less than one of fewer, and less than all of some of them.
            let is_covered = new.all.iter().any(|scope| self.any.contains(scope));
            if new.any.is_empty() && !is_covered {
                looser.push(format!("none of the scopes `{}` is asked for any more", self.any.join(" ")));
            }
            looser.extend(new.any.iter().filter(|scope| !self.any.contains(scope)).map(|scope| format!("the scope `{scope}` will do too")));
        }
        for (path, wanted) in &self.claims {
            match (wanted, new.claims.iter().find(|(other, _)| other == path).map(|(_, wanted)| wanted)) {
                (_, None) => looser.push(format!("the claim `{path}` is not asked for any more")),
                (Claim::OneOf(old), Some(Claim::OneOf(new))) => {
                    looser.extend(
                        new.iter().filter(|value| !old.contains(value)).map(|value| format!("the claim `{path}` may be `{value}` too")),
                    );
                }
                (Claim::Contains(old), Some(Claim::Contains(new))) => {
                    looser.extend(
                        old.iter().filter(|value| !new.contains(value)).map(|value| format!("the claim `{path}` need not have `{value}`")),
                    );
                }
                (Claim::OneOf(_) | Claim::Contains(_), Some(_)) => looser.push(format!("the claim `{path}` is asked for in another way")),
            }
        }
    }
}

impl Cors {
    /// Pages that may ask now, and could not.
    pub fn looser(old: Option<&Cors>, new: Option<&Cors>) -> Vec<String> {
        let Some(new) = new else { return Vec::new() };
        let known = |origin: &Origin| old.is_some_and(|old| old.origins.iter().any(|own| own.covers(origin)));
        let mut looser: Vec<String> =
            new.origins.iter().filter(|origin| !known(origin)).map(|origin| format!("pages of {origin} may ask too")).collect();
        if new.credentials && old.is_some_and(|old| !old.credentials) {
            looser.push("pages may ask with credentials".to_string());
        }
        looser
    }
}

impl Addresses {
    fn looser(&self, new: &Addresses, looser: &mut Vec<String>) {
        let within = |network: &IpNet, list: &[IpNet]| list.iter().any(|other| other.contains(network));
        match (&self.allow, &new.allow) {
            (Some(_), None) => looser.push("any address may come".to_string()),
            (Some(old), Some(new)) => {
                looser.extend(
                    new.iter().filter(|network| !within(network, old)).map(|network| format!("addresses of {network} may come too")),
                );
            }
            (None, _) => {}
        }
        looser.extend(
            self.deny.iter().filter(|network| !within(network, &new.deny)).map(|network| format!("{network} is not denied any more")),
        );
    }
}
