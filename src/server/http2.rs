//! The connections of HTTP/2, whose streams become requests here.
//!
//! Pingora has such a loop, too, but none that can be told to end. This one ends with GOAWAY (RFC 9113, 6.8), so that a client knows what was not
//! served: one that takes back most of what it asks as soon as it has asked, one that sends what is no request, and one that rests.

use super::accept::changed;
use super::requests::Requests;
use crate::proxy::account;
use crate::proxy::connection::Connection;
use crate::types::Refusal;
use h2::Reason;
use pingora::Error;
use pingora::apps::HttpServerApp;
use pingora::protocols::http::v2::server::{H2Accept, H2Options, HttpSession, default_h2_options, handshake};
use pingora::protocols::{Digest, Stream};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Overhead of tiny DATA frames not yet read that h2 accepts: with its own default of 25,600 it ends a gRPC stream of a
/// thousand small messages. About 17,000 frames, more than a window holds of the smallest gRPC messages.
const SMALL_FRAMES_BYTES: usize = 1 << 22;

/// Bytes that the uploads of one HTTP/2 connection may have under way together: one that stalls must not hold up the others.
const UPLOAD_WINDOW: u32 = 1 << 20;

/// What one stream may have handed over of an answer that its client has not taken; h2's default is 400 KiB.
const SEND_BYTES: usize = 64 << 10;

/// How long a client has to answer to the word that the connection ends, and to what it was sent.
const CLOSING: Duration = Duration::from_millis(500);

const MALFORMED: Refusal = Refusal::BadRequest("The request is malformed.");
/// What one connection may send that is no request.
const MALFORMED_MAX: usize = 32;

/// How long a client may take to hear the last word, and how long it is then listened to.
const LAST_WORD: Duration = Duration::from_secs(1);

/// How often a connection is looked at that may rest for no time.
const LOOK_MIN: Duration = Duration::from_millis(10);

/// Serves a connection until it has ended.
pub async fn serve<A>(requests: &Arc<Requests<A>>, stream: Stream, connection: &Arc<Connection>)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    connection.set_h2();
    let digest = digest_of(&stream);
    let (options, head, idle) = {
        let server = &requests.snapshot().server;
        (options(server.streams_max), server.timeouts.request_header.0, server.streams_idle)
    };
    let Some(mut h2) = shaken(stream, options, head, connection).await else { return };
    connection.rest();
    let mut closing = connection.closing().clone();
    let mut closes = pin!(changed(&mut closing));
    let mut rest = pin!(has_rested(connection, idle, LOOK_MIN));
    let (mut is_closing, mut is_late, mut malformed) = (false, false, 0);
    let why = loop {
        let accepted = tokio::select! {
            biased;
            () = &mut closes, if !is_closing => {
                h2.graceful_shutdown();
                is_closing = true;
                // A client that does not answer to that is not waited for, once it has all that it asked for.
                rest.set(has_rested(connection, CLOSING, CLOSING));
                continue;
            }
            accepted = HttpSession::from_h2_conn(&mut h2, digest.clone()) => accepted,
            () = &mut rest => {
                // The client may still be taking what it was answered, for as long as it might have rested.
                if !h2.has_streams() || (is_late && !is_closing) {
                    break Reason::NO_ERROR;
                }
                is_late = true;
                rest.set(has_rested(connection, if is_closing { CLOSING } else { 2 * idle }, LOOK_MIN));
                continue;
            }
        };
        match accepted {
            Ok(Some(H2Accept::Session(_))) if connection.is_wasteful() => break Reason::ENHANCE_YOUR_CALM,
            Ok(Some(H2Accept::Session(session))) => {
                let (requests, open) = (requests.clone(), connection.open());
                tokio::spawn(async move { requests.serve_stream(session, open.connection()).await });
            }
            Ok(Some(H2Accept::Rejected)) => {
                malformed += 1;
                match malformed {
                    // The first stands for those behind it: whoever sends many is not to fill the logs.
                    1 => account::unread(&requests.snapshot(), connection, &MALFORMED, None, "HTTP/2"),
                    MALFORMED_MAX => break Reason::ENHANCE_YOUR_CALM,
                    _ => {}
                }
            }
            Ok(None) => return,
            Err(e) => {
                requests.metrics().http2_ended.inc_by(is_fault(&e).into());
                return;
            }
        }
    };
    requests.metrics().http2_ended.inc_by((why != Reason::NO_ERROR).into());
    // What the client still says is read for a while: to close on that would reset the connection and take the last word along.
    connection.set_lingering(LAST_WORD);
    h2.abrupt_shutdown(why);
    let said = async { while matches!(HttpSession::from_h2_conn(&mut h2, digest.clone()).await, Ok(Some(_))) {} };
    let _ = timeout(2 * LAST_WORD, said).await;
}

/// The connection, once it is agreed upon. One that is to end is not waited for, since of a client that has said nothing yet nothing is lost.
async fn shaken(
    stream: Stream,
    options: H2Options,
    within: Duration,
    connection: &Connection,
) -> Option<h2::server::Connection<Stream, bytes::Bytes>> {
    let closed = async {
        changed(&mut connection.closing().clone()).await;
        pingora_timeout::sleep(CLOSING).await;
    };
    tokio::select! {
        shaken = timeout(within, handshake(stream, Some(options))) => shaken.ok()?.ok(),
        () = closed => None,
    }
}

/// What is known of the connection, for each of its requests.
fn digest_of(stream: &Stream) -> Arc<Digest> {
    Arc::new(Digest {
        ssl_digest: stream.get_ssl_digest(),
        timing_digest: stream.get_timing_digest(),
        proxy_digest: stream.get_proxy_digest(),
        socket_digest: stream.get_socket_digest(),
    })
}

/// It was `h2` that ended the connection, and has said so.
fn is_fault(e: &Error) -> bool {
    e.cause.as_ref().and_then(|cause| cause.downcast_ref::<h2::Error>()).is_some_and(|e| e.is_go_away() && e.is_library())
}

fn options(streams_max: u32) -> H2Options {
    let mut options = default_h2_options();
    options.max_concurrent_streams(streams_max).data_frame_budget(SMALL_FRAMES_BYTES);
    options.initial_connection_window_size(UPLOAD_WINDOW).max_send_buffer_size(SEND_BYTES);
    options
}

/// Resolves when no request has been in progress for so long, but not before `at_least`.
async fn has_rested(connection: &Connection, idle: Duration, at_least: Duration) {
    loop {
        // While there is one, a rest that is yet to begin is not over sooner.
        let left = idle.saturating_sub(connection.rested().unwrap_or_default());
        pingora_timeout::sleep(left.max(at_least)).await;
        if connection.rested().is_some_and(|rested| rested >= idle) {
            return;
        }
    }
}
