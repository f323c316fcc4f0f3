//! A request's raw head and a chunked body, whatever the bytes and however they come: never a panic, and the same verdict at once
//! and in parts.
#![no_main]

use frontdesk::config::raw::ServerLimits;
use frontdesk::proxy::strict::chunked::Chunks;
use frontdesk::proxy::strict::head::HeadReader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (usize, &[u8])| {
    let (cut, bytes) = input;
    let limits = ServerLimits::default();
    let cut = cut % (bytes.len() + 1);
    let at_once = HeadReader::default().advance(bytes, &limits).map_err(|refusal| refusal.code());
    let mut reader = HeadReader::default();
    let in_parts = match reader.advance(&bytes[..cut], &limits) {
        Ok(None) => reader.advance(bytes, &limits),
        done => done,
    };
    assert_eq!(at_once, in_parts.map_err(|refusal| refusal.code()));

    let whole = Chunks::default().advance(bytes);
    let mut chunks = Chunks::default();
    let parts = chunks.advance(&bytes[..cut]).and_then(|taken| match chunks.is_done() {
        true => Ok(taken),
        false => chunks.advance(&bytes[cut..]).map(|more| taken + more),
    });
    assert_eq!(whole, parts);
});
