//! What another configuration lets through in the parts that several routes use, or that stand before all of them.

use super::difference::{Side, raised};
use crate::config::raw::{self, Config};
use crate::config::scalar::Rate;
use crate::limit::Cap;
use std::collections::HashSet;

/// All of it, for people.
pub fn loosened(old: Side<'_>, new: Side<'_>) -> Vec<String> {
    let all = [methods(old.raw, new.raw), services(old, new), server(old, new), listeners(old, new)];
    all.into_iter().flatten().collect()
}

/// Ways to recognise somebody that believe more than before.
fn methods(old: &Config, new: &Config) -> Vec<String> {
    let mut looser = Vec::new();
    for (name, before) in &old.auth.0 {
        let after = new.auth.0.iter().find(|(other, _)| other == name).and_then(|(_, method)| method.as_ref());
        let jwt = |method: Option<&raw::auth::Method>| method.and_then(|method| method.jwt.clone());
        let (Some(before), Some(after)) = (jwt(before.as_ref()), jwt(after)) else { continue };
        let mut note = |what: &str| looser.push(format!("auth `{name}`: {what}"));
        if before.audience.is_some() && after.audience.is_none() {
            note("`aud` is not checked any more");
        }
        if before.issuer.is_some() && after.issuer.is_none() && after.oidc.is_none() {
            note("`iss` is not checked any more");
        }
        for claim in before.require_claims.iter().filter(|claim| !after.require_claims.contains(claim)) {
            note(&format!("`{claim}` need not be there any more"));
        }
        if after.leeway > before.leeway {
            note(&format!("`leeway` was {:?} and is {:?}", before.leeway, after.leeway));
        }
    }
    looser
}

/// Services that may have more with them at once.
fn services(old: Side<'_>, new: Side<'_>) -> Vec<String> {
    let pairs = old.snapshot.services.iter().filter_map(|before| {
        let after = new.snapshot.services.iter().find(|after| after.service.name == before.service.name)?;
        let max = |cap: &Option<Cap>| cap.as_ref().map(Cap::max);
        let what = raised("max_in_flight", max(&before.cap), max(&after.cap))?;
        Some(format!("service `{}`: {what}", before.service.name))
    });
    pairs.collect()
}

/// Whom the guard before everything else lets pass, and who is believed.
fn server(old: Side<'_>, new: Side<'_>) -> Vec<String> {
    let flood = |side: Side<'_>| side.raw.server.flood.as_ref().map(|flood| flood.rate);
    let flood = match (flood(old), flood(new)) {
        (Some(_), None) => Some("`server.flood` is gone".to_string()),
        (Some(old), Some(new)) if is_more(old, new) => Some(format!("`server.flood` was {old} and is {new}")),
        _ => None,
    };
    let trusted = &old.snapshot.server.trusted_proxies;
    let more = new.snapshot.server.trusted_proxies.iter().filter(|network| !trusted.iter().any(|known| known.contains(*network)));
    flood.into_iter().chain(more.map(|network| format!("`server.trusted_proxies`: {network} is believed too"))).collect()
}

/// It lets more pass in the long run, or at once.
fn is_more(old: Rate, new: Rate) -> bool {
    let speed = |rate: Rate, other: Rate| u128::from(rate.count) * other.period.as_nanos();
    new.count > old.count || speed(new, old) > speed(old, new)
}

/// Routes that were for the requests of some listeners, and get those of others too.
fn listeners(old: Side<'_>, new: Side<'_>) -> Vec<String> {
    let mut looser = Vec::new();
    for (route, after) in named(new) {
        let mut before = named(old).filter(|(other, _)| *other == route).peekable();
        // One that is new, or was for all.
        if before.peek().is_none() {
            continue;
        }
        let Some(before) = before.map(|(_, route)| asked(route)).collect::<Option<Vec<_>>>() else { continue };
        let before: HashSet<&str> = before.into_iter().flatten().collect();
        let all = new.snapshot.listeners.iter().map(|listener| (listener.name.as_deref(), listener.bind.to_string()));
        let asks = asked(after);
        for (name, bind) in all.filter(|(name, _)| asks.as_ref().is_none_or(|asks| name.is_some_and(|name| asks.contains(&name)))) {
            if !name.is_some_and(|name| before.contains(name)) {
                looser.push(format!("route `{route}`: requests of listener {} reach it too", name.unwrap_or(&bind)));
            }
        }
    }
    looser
}

/// Routes as they are typed, each with what it is called.
fn named<'a>(side: Side<'a>) -> impl Iterator<Item = (&'a str, &'a raw::Route)> {
    let names = side.snapshot.routes.iter().map(|route| &*route.name);
    names.zip(side.raw.routes.iter().flatten())
}

/// The listeners of a route; `None` is any.
fn asked(route: &raw::Route) -> Option<Vec<&str>> {
    route.listener.as_ref().map(|names| names.0.iter().map(|name| &*name.0).collect())
}
