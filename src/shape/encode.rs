//! Bytes into a content coding, as they pass.

use super::compress::Coding;
use bytes::Bytes;
use std::fmt;
use std::io::{self, Write};

/// Levels that a client may be kept waiting for: zstd and gzip at their programs' own, brotli where its price is gzip's.
const ZSTD: i32 = 3;
const BROTLI: u32 = 4;
const GZIP: u32 = 6;
/// Brotli's window, as a power of two: what it may look back on, and what a compressor takes of memory.
const BROTLI_WINDOW: u32 = 19;
const BROTLI_BUFFER: usize = 4096;

/// One body on its way into its coding.
pub struct Encoder(Writer);

enum Writer {
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    /// All was given out.
    Ended,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoder")
    }
}

impl Encoder {
    /// # Errors
    /// There is no memory for it.
    pub fn new(coding: Coding) -> io::Result<Encoder> {
        Ok(Encoder(match coding {
            Coding::Zstd => Writer::Zstd(zstd::stream::write::Encoder::new(Vec::new(), ZSTD)?),
            Coding::Brotli => Writer::Brotli(Box::new(brotli::CompressorWriter::new(Vec::new(), BROTLI_BUFFER, BROTLI, BROTLI_WINDOW))),
            Coding::Gzip => Writer::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP))),
        }))
    }

    /// Takes a piece, and gives what there is of the coded body; it may well be nothing before the end.
    ///
    /// # Errors
    /// None in practice: it writes to memory.
    pub fn encode(&mut self, piece: &[u8], is_end: bool) -> io::Result<Bytes> {
        let out = match &mut self.0 {
            Writer::Zstd(zstd) => zstd.write_all(piece).map(|()| std::mem::take(zstd.get_mut())),
            Writer::Brotli(brotli) => brotli.write_all(piece).map(|()| std::mem::take(brotli.get_mut())),
            Writer::Gzip(gzip) => gzip.write_all(piece).map(|()| std::mem::take(gzip.get_mut())),
            Writer::Ended => Ok(Vec::new()),
        }?;
        if !is_end {
            return Ok(out.into());
        }
        let rest = match std::mem::replace(&mut self.0, Writer::Ended) {
            Writer::Zstd(zstd) => zstd.finish()?,
            Writer::Brotli(brotli) => brotli.into_inner(),
            Writer::Gzip(gzip) => gzip.finish()?,
            Writer::Ended => Vec::new(),
        };
        Ok([out, rest].concat().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;

    fn decoded(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match coding {
            Coding::Zstd => zstd::stream::read::Decoder::new(bytes).and_then(|mut decoder| decoder.read_to_end(&mut out)),
            Coding::Brotli => brotli::Decompressor::new(bytes, BROTLI_BUFFER).read_to_end(&mut out),
            Coding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut out),
        }
        .expect("a body in its coding");
        out
    }

    proptest! {
        #[test]
        fn any_pieces_arrive(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5_000), 0..8)) {
            for coding in [Coding::Zstd, Coding::Brotli, Coding::Gzip] {
                let mut encoder = Encoder::new(coding).expect("an encoder");
                let mut out: Vec<u8> = Vec::new();
                for piece in &pieces {
                    out.extend_from_slice(&encoder.encode(piece, false).expect("to encode"));
                }
                out.extend_from_slice(&encoder.encode(b"", true).expect("to encode"));
                prop_assert_eq!(decoded(coding, &out), pieces.concat());
                prop_assert!(encoder.encode(b"", true).expect("nothing").is_empty());
            }
        }
    }
}
