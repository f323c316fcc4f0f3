//! Listeners, and what else is bound to an address.

use super::{Listener, State};
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{self, Config};
use crate::config::scalar::Bind;
use crate::tls::Termination;
use crate::tls::acme::Acme;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Certificates have to be asked for in the handshake.
pub(super) fn check_client_auth(raw: &Config, at: &At<'_>, problems: &Problems) {
    let asks = |listener: &raw::Listener| listener.tls.as_ref().is_some_and(|tls| tls.client_auth.is_some());
    let wants = |method: &Option<raw::auth::Method>| method.as_ref().is_some_and(|method| method.mtls.is_some());
    let named = raw.auth.0.iter().find(|(_, method)| wants(method));
    if let Some((name, _)) = named.filter(|_| problems.is_sound(&At::root().key("listeners")))
        && !raw.listeners.iter().flatten().any(asks)
    {
        let fix = "add `client_auth: { ca: FILE }` to the `tls` of a listener";
        let _: Option<()> = problems.at(&at.key(name), "no listener asks for certificates", "nobody could show one", fix);
    }
}

/// What is ordered, each once.
pub(super) fn ordered(listeners: &[Option<Listener>], at: &At<'_>, problems: &Problems) -> Option<Vec<Arc<Acme>>> {
    let mut all = Vec::<(usize, Arc<Acme>)>::new();
    for (index, listener) in listeners.iter().enumerate() {
        let Some(acme) = listener.as_ref().and_then(|listener| listener.tls.as_ref()?.acme.as_ref()) else { continue };
        match all.iter().find(|(_, known)| known.store == acme.store) {
            None => all.push((index, acme.clone())),
            Some((_, known)) if known.domains == acme.domains => {}
            Some((first, _)) => {
                let [at, first] = [at.index(index), at.index(*first)];
                let [at, first] = [at.key("tls"), first.key("tls")];
                let what = format!("another listener orders other domains under `{}`", acme.domains[0]);
                let fix = "write the same `domains` for both, or another one first";
                return problems.clash(&at.key("acme"), &first.key("acme"), what, "a certificate is filed under its first domain", fix);
            }
        }
    }
    Some(all.into_iter().map(|(_, acme)| acme).collect())
}

/// An address that others can reach needs a token. What systemd opens is looked at once it is there, and who may connect to a Unix
/// socket is said by its file.
pub fn check_admin(admin: &raw::Admin, address: SocketAddr, at: &At<'_>, problems: &Problems) {
    if !address.ip().is_loopback() && admin.token.is_none() {
        let (what, fix) = (format!("the admin listener on {address} needs a token"), "bind it to 127.0.0.1, or set `token:`");
        let _: Option<()> = problems.at(&at.key("bind"), what, "anybody could drain the gateway", fix);
    }
}

pub(super) fn listeners<'a>(config: &'a Config, state: &State, listeners_at: &At<'_>, problems: &Problems) -> Vec<Option<Listener>> {
    let raw = &config.listeners;
    let roots = state.tickets.roots(config.server.secret.as_ref());
    if raw.is_empty() {
        let _: Option<()> =
            problems.at(listeners_at, "no listener", "no request could come in", "add one, such as `listeners: [{ bind: 0.0.0.0:8080 }]`");
    }
    let (mut binds, mut names) = (HashMap::<&'a Bind, (usize, usize)>::new(), HashMap::<&'a raw::Name, usize>::new());
    let build = |(index, raw): (usize, &'a Option<raw::Listener>)| {
        let (at, raw) = (listeners_at.index(index), raw.as_ref()?);
        let (first, seen) = binds.entry(&raw.bind).or_insert((index, 0));
        let nth = std::mem::replace(seen, *seen + 1);
        let may_repeat = match &raw.bind {
            Bind::Tcp(address) => address.port() == 0,
            Bind::Unix(_) => false,
            // Several sockets may have one name.
            Bind::Systemd(_) => true,
        };
        if nth > 0 && !may_repeat {
            let (what, fix) = (format!("{} is bound twice", raw.bind), "remove one of the two");
            return problems.clash(&at.key("bind"), &listeners_at.index(*first).key("bind"), what, "only one can have it", fix);
        }
        if let Some(name) = &raw.name
            && let Some(first) = names.insert(name, index)
        {
            let (what, fix) = (format!("two listeners are named `{}`", name.0), "rename one of the two");
            let first = listeners_at.index(first);
            return problems.clash(&at.key("name"), &first.key("name"), what, "routes could mean either", fix);
        }
        let tls = raw.tls.as_ref().map(|tls| Termination::build(tls, roots.clone(), &at.key("tls"), problems));
        Some(Listener {
            id: state.listener_id(&raw.bind, nth),
            name: raw.name.as_ref().map(|name| name.0.as_str().into()),
            bind: raw.bind.clone(),
            is_proxied: raw.proxy_protocol,
            tls: tls.map_or(Some(None), |built| built.map(|tls| Some(Arc::new(tls))))?,
        })
    };
    raw.iter().enumerate().map(build).collect()
}
