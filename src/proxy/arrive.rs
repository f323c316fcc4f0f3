//! A request arrives: who is at the other end, what the request is called, and what is refused before it is looked at.

use super::connection::{Connection, InFlight};
use super::deadline::{self, Phase};
use super::{Exchange, Gateway, caching, forward, grpc, limits, refuse, respond, strict};
use crate::shape::forward::{Origin, Trace, request_id};
use crate::types::Refusal;
use http::Version;
use http::header::EXPECT;
use pingora::prelude::*;

impl Gateway {
    /// All that is done before a route is looked for.
    ///
    /// # Errors
    /// The request is refused.
    pub(super) fn arrive(&self, session: &mut Session, exchange: &mut Exchange) -> Result<()> {
        if session.subrequest_ctx.is_some() {
            let Some((head, behind)) = caching::behind(session) else {
                return refuse(exchange, Refusal::Internal("a request of the gateway's own that nobody asked for"));
            };
            *session.req_header_mut() = head;
            *exchange = behind;
            return Ok(());
        }
        let is_text = session.req_header().raw_path_is_utf8();
        forward::forget_case(session.req_header_mut());
        self.meet(session, exchange);
        exchange.is_h2 = session.is_http2();
        if limits::is_flood(exchange) {
            self.metrics.flood_refused.inc();
            exchange.is_flood = true;
            return refuse(exchange, Refusal::RateLimited(1));
        }
        let timeouts = &exchange.snapshot.server.timeouts;
        session.set_read_timeout(Some(timeouts.request_body.0));
        session.set_total_drain_timeout(Some(timeouts.request_body.0));
        if exchange.is_h2 {
            session.set_write_timeout(Some(timeouts.client_write.0)); // HTTP/1 has it on its stream
        }
        if session.req_header().version == Version::HTTP_10 {
            // RFC 9110, 15.2 and 10.1.1: an old client knows no interim answers, and what it expects is not heard.
            session.as_mut().set_ignore_info_resp(true);
            session.req_header_mut().remove_header(&EXPECT);
        }
        // It needs HTTP/2 on both sides: of the service's, see `steps::take`.
        exchange.is_long_lived = exchange.is_h2 && respond::is_grpc(session);
        if exchange.is_long_lived {
            exchange.grpc_due = grpc::due(&session.req_header().headers);
        }
        // A client that resets its streams may open others at once, while what it left behind is still being wound up.
        let streams_max = exchange.snapshot.server.streams_max as usize;
        if exchange.is_h2 && exchange.connection().is_some_and(|connection| connection.in_flight() > 2 * streams_max) {
            return refuse(exchange, Refusal::Overloaded);
        }
        if exchange.is_h2
            && let Err(refusal) = strict::http2(session.req_header(), &exchange.snapshot.server.limits)
        {
            return refuse(exchange, refusal);
        }
        match is_text {
            true => Ok(()),
            false => refuse(exchange, Refusal::BadRequest("The target is not UTF-8.")),
        }
    }

    /// Who is at the other end, and what the request is called.
    fn meet(&self, session: &mut Session, exchange: &mut Exchange) {
        let head = session.req_header();
        let digest = session.digest();
        if let Some(tls) = digest.and_then(|digest| digest.ssl_digest.as_ref()) {
            // Pingora has its own way to write versions.
            exchange.tls = if tls.version.ends_with('3') { "TLSv1.3" } else { "TLSv1.2" };
        }
        if let Some(connection) = digest.and_then(Connection::of) {
            exchange.deadline = deadline::of_task().unwrap_or_else(|| connection.deadline.clone());
            exchange.origin = Origin::of(connection.peer.ip(), &exchange.snapshot.server.trusted_proxies, &head.headers);
            exchange.in_flight = Some(InFlight::new(connection.clone(), self.metrics.in_flight.clone()));
        }
        exchange.deadline.forget();
        exchange.deadline.enter(Phase::Busy, None);
        exchange.id = request_id(&exchange.origin, &head.headers);
        exchange.trace = Trace::next(Trace::of(&head.headers));
        if !exchange.origin.is_trusted {
            forward::drop_claims(session.req_header_mut());
        }
        forward::drop_own(session.req_header_mut(), &exchange.snapshot.methods);
    }
}
