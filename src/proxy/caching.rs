//! A request meets the cache: what Pingora's cache asks of us, in the order in which it asks.

pub mod key;
pub mod told;

use super::connection::Connection;
use super::exchange::Exchange;
use super::{deadline, forget, shaped};
use crate::cache::asked::{Asked, Use};
use crate::cache::entry::{Entry, Told, renewed};
use crate::cache::fresh::{Answer, Terms, decide};
use crate::cache::key::Key;
use crate::cache::purge::{How, Purge, tags};
use crate::cache::storage::{AskedAbout, meta};
use crate::cache::{Rule, THIS_TIME, entry_of};
use crate::types::{Refusal, content_length};
use bytes::Bytes;
use http::header::{AUTHORIZATION, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use key::{is_elsewhere, key_of, url};
use pingora::cache::{CacheOptionOverrides, CachePhase, ForcedFreshness, HitHandler, NoCacheReason, RespCacheable};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;
use pingora::proxy::subrequest::Ctx as Subrequest;
use std::sync::Arc;
use std::time::SystemTime;

/// What one exchange has to do with the cache.
pub struct Caching {
    pub key: Key,
    pub rule: Arc<Rule>,
    pub asked: Asked,
    /// What was found.
    pub entry: Option<Arc<Entry>>,
    /// It is given though it is stale.
    pub is_stale: bool,
    /// What the service answered in whose stead it is given, if it answered.
    pub failed: Option<u16>,
    /// The client wants the service to be asked.
    pub is_forced: bool,
    /// What the service said anew of what is kept.
    pub renewal: Option<HeaderMap>,
    /// The terms of the answer that came.
    pub terms: Option<Terms>,
    /// The last purge before the service was asked.
    since: u64,
}

/// A request of our own making, on behalf of one that has its answer already.
pub struct Behalf {
    client: Option<Arc<Connection>>,
    renewed: Arc<Entry>,
}

impl Drop for Behalf {
    fn drop(&mut self) {
        self.renewed.end_renewal();
    }
}

/// Looks for the answer in the cache, where the route has one and the request is of a kind that it serves.
pub fn begin(session: &mut Session, exchange: &mut Exchange) {
    let Some(rule) = exchange.route().and_then(|route| route.cache.as_ref()).map(|cache| cache.rule.clone()) else { return };
    let is_plain = matches!(session.req_header().method, Method::GET | Method::HEAD) && !exchange.is_long_lived;
    if !is_plain || !session.as_mut().is_body_empty() {
        return;
    }
    let head = session.req_header();
    let asked = if exchange.is_background() { Asked::default() } else { Asked::of(&head.headers) };
    if asked.no_store() || is_elsewhere(exchange, head) {
        return;
    }
    let cache = exchange.snapshot.cache;
    let caching = Caching {
        key: key_of(exchange, head, &rule),
        asked,
        entry: None,
        is_stale: false,
        failed: None,
        is_forced: false,
        renewal: None,
        terms: None,
        since: cache.store.purges(),
        rule,
    };
    let mut options = CacheOptionOverrides::default();
    options.wait_timeout = Some(caching.rule.collapse_timeout);
    session.cache.enable(cache.store, None, Some(&cache.predictor), Some(&cache.lock), Some(options));
    // What is made anew for each client has other bytes than what is kept.
    let is_shaped = exchange.route().is_some_and(|route| route.response_body.is_some() || route.compress.is_some());
    session.ignore_downstream_range |= is_shaped;
    exchange.caching = Some(Box::new(caching));
}

/// The body of an answer ends here: what comes from the store while the service answers is ended by an empty piece, and not as Pingora
/// ends others.
pub fn is_end(session: &Session, body: &mut Option<Bytes>, exchange: &Exchange) -> bool {
    use CachePhase::{Expired, Miss, Revalidated, RevalidatedNoCache};
    let is_marked = exchange.caching.is_some() && body.take_if(|body| body.is_empty()).is_some();
    is_marked && matches!(session.cache.phase(), Miss | Expired | Revalidated | RevalidatedNoCache(_))
}

/// Something was found: may it serve?
pub fn found(session: &mut Session, handler: &HitHandler, exchange: &mut Exchange) -> Option<ForcedFreshness> {
    let entry = entry_of(handler)?;
    let (now, fresh_until) = (SystemTime::now(), entry.fresh_until());
    let is_background = exchange.is_background();
    let rule = exchange.route().and_then(|route| route.response_body.as_ref());
    if rule.is_some_and(|rule| !shaped::can_be_changed(rule, &entry.head.build(0))) {
        // It was kept under other rules.
        return Some(ForcedFreshness::ForceMiss);
    }
    let caching = exchange.caching.as_mut()?;
    let terms = entry.terms();
    if terms.is_never_fresh() {
        // Each has to ask for itself: to wait for one another would only put them in a line.
        session.cache.set_cache_lock(None, None);
    }
    let wanted = caching.asked.admits(&terms, fresh_until, now);
    caching.entry = Some(entry.clone());
    caching.is_forced = wanted == Use::Ask;
    let is_renewable = fresh_until < now && now <= fresh_until + terms.stale_while_revalidate;
    match wanted {
        Use::Ask => Some(ForcedFreshness::ForceExpired),
        Use::Take => {
            caching.is_stale = true;
            Some(ForcedFreshness::ForceFresh)
        }
        Use::AsIs if is_renewable && !is_background => {
            caching.is_stale = true;
            renew(session, &entry, exchange);
            Some(ForcedFreshness::ForceFresh)
        }
        Use::AsIs => None,
    }
}

/// Fetches a stale answer anew behind the one who gets it, unless somebody does already.
fn renew(session: &Session, entry: &Arc<Entry>, exchange: &Exchange) {
    let Some(spawner) = session.subrequest_spawner.as_ref().filter(|_| entry.begin_renewal()) else { return };
    let behind: Behind = Some((session.req_header().clone(), exchange.behind(entry.clone())));
    let context = Subrequest::builder().user_ctx(Box::new(behind)).build();
    let (request, answer) = spawner.create_subrequest(session.as_ref(), context);
    answer.drain_tasks();
    tokio::spawn(request.run());
}

/// A request of ours with its head, until it begins.
type Behind = Option<(RequestHeader, Exchange)>;

/// What a request of ours is about.
pub fn behind(session: &mut Session) -> Behind {
    session.subrequest_ctx.as_mut()?.user_ctx_mut()?.downcast_mut::<Behind>()?.take()
}

/// The service is about to be asked.
///
/// # Errors
/// The client did not want that.
pub fn ask(exchange: &mut Exchange) -> Result<(), Refusal> {
    let purges = exchange.snapshot.cache.store.purges();
    let Some(caching) = exchange.caching.as_mut() else { return Ok(()) };
    caching.since = purges;
    match caching.asked.only_if_cached() {
        true => Err(Refusal::NotCached),
        false => Ok(()),
    }
}

/// An interim answer (RFC 9110, 15.2; RFC 8297) of a service whose final answer may be kept. Pingora drops it where both come
/// together, since the final one then goes by way of the store: so it is passed on here, and not a second time.
///
/// # Errors
/// The client is gone.
pub async fn interim(session: &mut Session, head: &ResponseHeader, exchange: &Exchange) -> Result<()> {
    // With one of them the answer has begun for Pingora, and what is stale could not stand in for it any more.
    let may_stand_in = exchange.caching.as_ref().and_then(|caching| caching.entry.as_ref());
    let may_stand_in = may_stand_in.is_some_and(|entry| !entry.terms().stale_if_error.is_zero());
    let is_told = !may_stand_in && matches!(head.status.as_u16(), 102 | 103) && session.req_header().version == Version::HTTP_11;
    if !is_told || exchange.is_background() || !session.cache.enabled() {
        return Ok(());
    }
    session.as_mut().set_ignore_info_resp(false);
    session.write_response_header(Box::new(head.clone()), false).await?;
    session.as_mut().set_ignore_info_resp(true);
    Ok(())
}

/// The service has answered.
pub fn answered(session: &mut Session, head: &ResponseHeader, exchange: &mut Exchange) {
    forget::changed(session, head, exchange);
    let is_renewal = head.status == StatusCode::NOT_MODIFIED && session.cache.maybe_cache_meta().is_some();
    let max = exchange.caching.as_ref().map_or(0, |caching| caching.rule.body_bytes_max);
    if !is_renewal && session.cache.enabled() && content_length(&head.headers).is_some_and(|length| length <= max as u64) {
        // Others may read it too: they don't wait for a client that takes its time. What is held for that is bounded.
        session.as_mut().set_proxy_tasks_enabled(true);
    }
    if let Some(caching) = exchange.caching.as_mut().filter(|_| is_renewal) {
        caching.renewal = Some(head.headers.clone());
    }
}

/// What is kept under the request's URL is of no use.
pub fn forget_page(exchange: &Exchange) {
    if let Some(caching) = &exchange.caching {
        exchange.snapshot.cache.store.purge(&Purge::Pages(vec![caching.key.page]), How::Hard);
    }
}

/// Another attempt follows. Where the answer to the last one had begun to be kept, that to the next is not: Pingora keeps one for a
/// request, and panics at a second.
pub fn again(session: &mut Session) {
    let cache = &mut session.cache;
    if matches!(cache.phase(), CachePhase::Miss | CachePhase::Expired) && cache.miss_handler().is_some() {
        cache.disable(NoCacheReason::UpstreamError);
    }
}

/// Whether an answer is kept, and for how long.
pub fn keep(session: &Session, head: &ResponseHeader, exchange: &mut Exchange) -> RespCacheable {
    let renewal = exchange.caching.as_mut().and_then(|caching| caching.renewal.take());
    let head = match (renewal, session.cache.maybe_cache_meta()) {
        (Some(anew), Some(stored)) => renewed(stored.response_header(), &anew, SystemTime::now()),
        _ => head.clone(),
    };
    match terms(session, &head, exchange) {
        Ok(told) => {
            let told = Arc::new(told);
            if let Some(caching) = &mut exchange.caching {
                caching.terms = Some(told.terms.clone());
            }
            let mut meta = meta(&told.terms, head, told.terms.fresh_until());
            meta.extensions_mut().insert(told);
            if let Some(entry) = exchange.caching.as_ref().and_then(|caching| caching.entry.clone()) {
                meta.extensions_mut().insert(AskedAbout(entry));
            }
            RespCacheable::Cacheable(meta)
        }
        Err(reason) => RespCacheable::Uncacheable(reason),
    }
}

fn terms(session: &Session, head: &ResponseHeader, exchange: &Exchange) -> Result<Told, NoCacheReason> {
    let request = session.req_header();
    let caching = exchange.caching.as_ref().ok_or(NoCacheReason::InternalError)?;
    let (rule, store) = (&caching.rule, exchange.snapshot.cache.store);
    if content_length(&head.headers).is_some_and(|length| length > rule.body_bytes_max as u64) {
        return Err(NoCacheReason::ResponseTooLarge);
    }
    let vary = vary_names(&head.headers).ok_or(NoCacheReason::OriginNotCache)?;
    let route = exchange.route();
    // What the route makes of the fields is not in the client's head.
    let is_made = |name: &HeaderName| route.is_some_and(|route| route.request_headers.makes(name));
    if vary.iter().any(is_made) {
        return Err(NoCacheReason::OriginNotCache);
    }
    // Who waits for it asks anew, and is told what is wrong with it.
    let rule_of_body = route.and_then(|route| route.response_body.as_ref());
    if rule_of_body.is_some_and(|rule| !shaped::can_be_changed(rule, head)) {
        return Err(NoCacheReason::Custom(THIS_TIME));
    }
    let answer = Answer {
        status: head.status,
        headers: &head.headers,
        received: SystemTime::now(),
        delay: exchange.attempt.elapsed(),
        is_personal: is_personal(exchange, rule, &request.headers),
        share: 1.0 - fastrand::f64() * rule.jitter,
    };
    let terms = decide(&answer, &rule.policy).map_err(|why| match head.status.is_server_error() {
        // That it fails now says nothing of what it answers next.
        true => NoCacheReason::Custom(THIS_TIME),
        false => told::reason(why),
    })?;
    // Another service's answer in this one's stead is not this one's.
    if exchange.detour.is_some() || !store.has_room() {
        return Err(NoCacheReason::Custom(THIS_TIME));
    }
    let values = rule.tags.iter().flat_map(|name| head.headers.get_all(name)).filter_map(|value| value.to_str().ok());
    Ok(Told {
        terms,
        url: url(exchange, request).to_string().into(),
        vary: vary.into(),
        tags: values.flat_map(tags).collect(),
        body_bytes_max: rule.body_bytes_max,
        since: caching.since,
    })
}

/// Whether an answer is for whoever asked alone, unless it says otherwise (RFC 9111, 3.5). Where some are recognised, what others get is
/// not for them either. An identity in the key tells them all apart, but for those who have no name.
pub(super) fn is_personal(exchange: &Exchange, rule: &Rule, request: &HeaderMap) -> bool {
    match &exchange.identity {
        Some(identity) => !rule.key.identity || identity.name.is_empty(),
        None if request.contains_key(AUTHORIZATION) => true,
        None => !rule.key.identity && exchange.route().is_some_and(|route| route.access.recognises()),
    }
}

/// What a Vary names, each once; `None` when no request tells what the answer goes by: what is named is set by the gateway for each
/// client anew.
pub(super) fn vary_names(headers: &HeaderMap) -> Option<Vec<HeaderName>> {
    let mut names: Vec<HeaderName> = Vec::new();
    for word in headers.get_all(VARY).iter().flat_map(|value| value.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii) {
        if word.is_empty() {
            continue;
        }
        let name = HeaderName::from_bytes(word).ok()?;
        if matches!(name.as_str(), "x-forwarded-for" | "forwarded" | "x-request-id" | "traceparent" | "via") {
            return None;
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    Some(names)
}

/// Whether what is stale serves where the service fails.
pub fn stands_in(exchange: &mut Exchange, error: Option<&Error>) -> bool {
    // Behind the client's back it is `found` that sees to it.
    let Some(error) = error else { return false };
    let is_refused = exchange.refusal.as_ref().is_some_and(|refusal| (502..=504).contains(&refusal.status()));
    let is_in_time = |entry: &Arc<Entry>| SystemTime::now() <= entry.fresh_until() + entry.terms().stale_if_error;
    let found = exchange.caching.as_ref().and_then(|caching| caching.entry.as_ref());
    let stands_in = (error.esource() == &ErrorSource::Upstream || is_refused) && found.is_some_and(is_in_time);
    if stands_in {
        exchange.refusal = None;
        let failed = match error.etype() {
            ErrorType::HTTPStatus(status) if !is_refused => Some(*status),
            _ => None,
        };
        match failed {
            Some(status) => exchange.stood_in(status),
            None => exchange.deadline.enter(deadline::Phase::Busy, None),
        }
        exchange.caching.iter_mut().for_each(|caching| (caching.is_stale, caching.failed) = (true, failed));
    }
    stands_in
}

impl Exchange {
    /// It serves nobody who waits.
    pub fn is_background(&self) -> bool {
        self.on_behalf_of.is_some()
    }

    /// An exchange with the same route and the same rights, for a request of our own making.
    fn behind(&self, renewed: Arc<Entry>) -> Exchange {
        let mut behind = Exchange::new(self.snapshot.clone());
        behind.on_behalf_of = Some(Behalf { client: self.connection().cloned(), renewed });
        // Of its own, since the connection to its service stands in it.
        behind.deadline = Arc::default();
        (behind.origin, behind.id, behind.trace) = (self.origin, self.id.clone(), self.trace);
        (behind.tls, behind.is_h2) = (self.tls, self.is_h2);
        (behind.route, behind.choice, behind.captures) = (self.route, self.choice, self.captures.clone());
        (behind.identity, behind.auth) = (self.identity.clone(), self.auth.clone());
        behind
    }

    /// Whose connection it is, or was.
    pub fn client(&self) -> Option<&Arc<Connection>> {
        self.connection().or_else(|| self.on_behalf_of.as_ref()?.client.as_ref())
    }
}

/// A value of digits and words.
pub(super) fn value(text: String) -> Result<HeaderValue> {
    HeaderValue::from_maybe_shared(Bytes::from(text)).or_err(ErrorType::InternalError, "a field of the cache")
}
