//! A small request of our own to an endpoint, over whatever its service speaks.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Uri, header::HOST};
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::{HttpPeer, Peer};
use pingora::{Error, ErrorType, OrErr, Result};

/// Interim answers (1xx) that may come before the one that counts.
const INTERIM_MAX: u32 = 10;

/// What is asked.
pub struct Request {
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub host: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What is answered.
pub struct Answer {
    pub head: ResponseHeader,
    /// As much of it as was wanted.
    pub body: Bytes,
}

/// Asks on a connection that nobody else uses, and reads up to `body_max` bytes of the answer's body. Has no deadline of its own.
///
/// # Errors
/// No connection, none that lasts, or no answer that can be read.
pub async fn ask(connector: &Connector, peer: &HttpPeer, request: Request, body_max: usize) -> Result<Answer> {
    let (mut session, _) = connector.get_http_session(peer).await?;
    session.write_request_header(Box::new(head(&request, peer, session.as_http2().is_some())?)).await?;
    if !request.body.is_empty() {
        session.write_request_body(request.body, true).await?;
    }
    session.finish_request_body().await?;
    let head = final_head(&mut session, INTERIM_MAX).await?;
    let mut body = BytesMut::new();
    while body.len() < body_max {
        let Some(bytes) = session.read_response_body().await? else { break };
        body.extend_from_slice(&bytes[..bytes.len().min(body_max - body.len())]);
    }
    session.shutdown().await;
    Ok(Answer { head, body: body.freeze() })
}

/// The final head behind fewer than `max` interim ones: Pingora reads one at a time, whatever it is.
///
/// # Errors
/// None came, or a 101, for which nobody has asked.
pub async fn final_head(session: &mut HttpSession, max: u32) -> Result<ResponseHeader> {
    for _ in 0..max {
        session.read_response_header().await?;
        match session.response_header() {
            Some(head) if head.status.is_informational() && head.status != 101 => {}
            Some(head) if head.status != 101 => return Ok(head.clone()),
            _ => break,
        }
    }
    Error::e_explain(ErrorType::InvalidHTTPHeader, "no answer")
}

fn head(request: &Request, peer: &HttpPeer, is_h2: bool) -> Result<RequestHeader> {
    let mut head = RequestHeader::build_no_case(request.method.clone(), request.target.as_bytes(), Some(request.headers.len() + 4))?;
    for (name, value) in &request.headers {
        head.append_header(name.clone(), value.clone())?;
    }
    if is_h2 {
        let scheme = if peer.tls() { "https" } else { "http" };
        let uri = Uri::builder().scheme(scheme).authority(&*request.host).path_and_query(&*request.target).build();
        head.set_uri(uri.or_err(ErrorType::InvalidHTTPHeader, "a target that is none")?);
        head.set_version(http::Version::HTTP_2);
    } else {
        head.insert_header(HOST, &*request.host)?;
        head.insert_header("Connection", "close")?;
        if !request.body.is_empty() || request.method == Method::POST {
            head.insert_header("Content-Length", request.body.len())?;
        }
    }
    Ok(head)
}
