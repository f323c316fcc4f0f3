//! What is kept is forgotten: because a request has changed it, or because somebody says so.

use super::caching::key::url;
use super::exchange::Exchange;
use crate::cache::Heard;
use crate::cache::key::Url;
use crate::cache::purge::{How, Purge};
use crate::route::{Outcome, Query, host, normalize};
use crate::snapshot::Snapshot;
use crate::types::ListenerId;
use http::header::{CONTENT_LOCATION, LOCATION};
use http::{Method, Uri};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// What is to be forgotten, as somebody says it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wanted {
    pub url: Option<String>,
    pub prefix: Option<String>,
    pub tag: Option<String>,
    pub all: bool,
    /// It is stale from now on, rather than gone.
    pub soft: bool,
}

/// Forgets what somebody wants forgotten; how many answers that were.
///
/// # Errors
/// What of it can't be understood.
pub fn purge(snapshot: &Snapshot, wanted: &Wanted) -> Result<usize, String> {
    let purge = match (&wanted.url, &wanted.prefix, &wanted.tag, wanted.all) {
        (Some(url), None, None, false) => Purge::Pages(pages_of(snapshot, url)?),
        (None, Some(prefix), None, false) if prefix.starts_with('/') || prefix.contains("://") => Purge::Prefix(prefix.as_str().into()),
        (None, Some(prefix), None, false) => {
            return Err(format!("`{prefix}` is the begin neither of a URL nor of a path: write https://… or /…"));
        }
        (None, None, Some(tag), false) => Purge::Tag(tag.as_str().into()),
        (None, None, None, true) => Purge::All,
        _ => return Err("one of `url`, `prefix`, `tag` and `all` says what to forget".to_string()),
    };
    Ok(snapshot.cache.store.purge(&purge, if wanted.soft { How::Soft } else { How::Hard }))
}

/// The same, and tells the other gateways: with how many answers it was here, whether they have been told, where there are others.
///
/// # Errors
/// What of it can't be understood.
pub async fn purge_everywhere(snapshot: &Snapshot, wanted: &Wanted) -> Result<(usize, Option<bool>), String> {
    let purged = purge(snapshot, wanted)?;
    let (Some(bulletin), Ok(note)) = (&snapshot.bulletin, serde_json::to_string(wanted)) else { return Ok((purged, None)) };
    Ok((purged, Some(bulletin.tell(note).await)))
}

/// Forgets what another gateway has forgotten, and what it may have.
pub fn hear(snapshot: &Snapshot, heard: Heard<'_>) {
    let wanted = match heard {
        Heard::Note(note) => serde_json::from_str::<Wanted>(note).map_err(|e| e.to_string()),
        Heard::Missed => Ok(Wanted { all: true, ..Wanted::default() }),
    };
    if let Err(what) = wanted.and_then(|wanted| purge(snapshot, &wanted)) {
        log::warn!("purges: all answers are forgotten, since what another gateway says can't be understood: {what}");
        snapshot.cache.store.purge(&Purge::All, How::Hard);
    }
}

fn pages_of(snapshot: &Snapshot, text: &str) -> Result<Vec<u128>, String> {
    let wrong = || format!("`{text}` is not a URL such as https://api.example.com/menus/7");
    let uri: Uri = text.split('#').next().unwrap_or_default().parse().map_err(|_| wrong())?;
    let authority = uri.authority().ok_or_else(wrong)?;
    let path = normalize::path(uri.path()).map_err(|_| wrong())?;
    let is_tls = uri.scheme_str() == Some("https");
    Ok(pages(snapshot, &Url { is_tls, authority: authority.as_str(), path: &path, query: uri.query() }))
}

/// A request that was not safe has changed what is kept (RFC 9111, 4.4): its own URL, and those that the answer names on the same host.
pub fn changed(session: &Session, head: &ResponseHeader, exchange: &Exchange) {
    let request = session.req_header();
    let is_good = head.status.is_success() || head.status.is_redirection();
    if exchange.snapshot.caches.is_empty() || request.method.is_safe() || !is_good {
        return;
    }
    let own = url(exchange, request);
    let named = [LOCATION, CONTENT_LOCATION].iter().filter_map(|name| head.headers.get(name)?.to_str().ok());
    let others: Vec<(String, Option<String>)> = named.filter_map(|named| same_host(named, &own)).collect();
    let others = others.iter().map(|(path, query)| Url { path, query: query.as_deref(), ..own });
    let urls: SmallVec<[Url<'_>; 2]> = std::iter::once(own).chain(others).collect();
    let pages = urls.iter().flat_map(|url| pages(&exchange.snapshot, url)).collect();
    exchange.snapshot.cache.store.purge(&Purge::Pages(pages), How::Hard);
    if let Some(bulletin) = &exchange.snapshot.bulletin {
        let kept = urls.iter().filter(|url| is_kept(url, request, exchange));
        let notes = kept.filter_map(|url| serde_json::to_string(&Wanted { url: Some(url.to_string()), ..Wanted::default() }).ok());
        notes.for_each(|note| bulletin.mention(note));
    }
}

/// Whether answers to a URL are kept, as far as the request that changed it tells: others need not hear of it where they are not.
fn is_kept(url: &Url<'_>, request: &RequestHeader, exchange: &Exchange) -> bool {
    let listener = exchange.connection().map_or(ListenerId(u32::MAX), |connection| connection.listener);
    let asked = Query {
        listener,
        host: host::name(url.authority),
        path: url.path,
        parameters: url.query.unwrap_or_default(),
        method: &Method::GET,
        headers: &request.headers,
    };
    match exchange.snapshot.table.find(&asked) {
        Outcome::Found(found) => exchange.snapshot.routes.get(found.id.0 as usize).is_some_and(|route| route.cache.is_some()),
        Outcome::MethodNotAllowed(_) | Outcome::Nothing => false,
    }
}

/// The pages of a URL: one for each way in which caches tell answers apart, whether it came over TLS or not.
fn pages(snapshot: &Snapshot, url: &Url<'_>) -> Vec<u128> {
    let seed = &snapshot.cache.store.seed;
    let of = |is_tls| snapshot.caches.iter().map(move |rule| rule.key.page(&Url { is_tls, ..*url }, seed));
    let mut pages: Vec<u128> = of(true).chain(of(false)).collect();
    pages.sort_unstable();
    pages.dedup();
    pages
}

/// Path and query of a reference to the same host (RFC 3986, 5.2), in normal form.
fn same_host(reference: &str, base: &Url<'_>) -> Option<(String, Option<String>)> {
    let reference = reference.split('#').next()?;
    let target = match reference.split_once("://") {
        Some((_, rest)) => {
            let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            authority.eq_ignore_ascii_case(base.authority).then(|| target.to_string())?
        }
        None if reference.starts_with("//") => return None,
        None if reference.starts_with('/') => reference.to_string(),
        None if reference.is_empty() || reference.starts_with('?') => format!("{}{reference}", base.path),
        None => format!("{}/{reference}", base.path.rsplit_once('/')?.0),
    };
    let (path, query) = target.split_once('?').map_or((&*target, None), |(path, query)| (path, Some(query.to_string())));
    Some((normalize::path(if path.is_empty() { "/" } else { path }).ok()?.into_owned(), query))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_to_the_same_host() {
        let base = Url { is_tls: false, authority: "h:1", path: "/a/b", query: None };
        for (reference, expected) in [
            ("/x", Some(("/x", None))),
            ("/x?y=1#z", Some(("/x", Some("y=1")))),
            ("c", Some(("/a/c", None))),
            ("../c", Some(("/c", None))),
            ("?q", Some(("/a/b", Some("q")))),
            ("", Some(("/a/b", None))),
            ("http://H:1/x", Some(("/x", None))),
            ("https://h:1", Some(("/", None))),
            ("http://other/x", None),
            ("//h:1/x", None),
            ("/%zz", None),
        ] {
            let found = same_host(reference, &base);
            assert_eq!(found.as_ref().map(|(path, query)| (path.as_str(), query.as_deref())), expected, "{reference}");
        }
    }
}
