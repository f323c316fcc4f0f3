//! The header of the PROXY protocol: any bytes, and the same answer once more bytes have come.
#![no_main]

use frontdesk::server::proxy_header::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(header)) = parse(bytes) {
        assert!(header.length <= bytes.len());
        assert_eq!(parse(&bytes[..header.length]), Ok(Some(header)));
        assert_eq!(parse(&[bytes, b"more"].concat()), Ok(Some(header)));
    }
});
