//! Bodies out of their content coding (RFC 9110, 8.4.1), and no more of them than there is room for: a few bytes may well become a
//! gigabyte.

use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use std::io::{self, Read};

/// What a zstd body may look back on, as a power of two: RFC 9659 lets none ask for more than 8 MiB.
const ZSTD_WINDOW_MAX: u32 = 23;
const BROTLI_BUFFER: usize = 4096;

/// Why a body can't be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It would become larger than it may.
    TooLarge,
    /// It is not in its coding, or breaks off.
    Malformed,
}

/// The codings that are understood; of several for one body none is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coded {
    Gzip,
    /// Zlib's form, or the bare one that some send.
    Deflate,
    Brotli,
    Zstd,
}

impl Coded {
    /// By a Content-Encoding. The outer `None` is for a coding that is not understood, the inner one for none at all.
    pub fn of(field: Option<&[u8]>) -> Option<Option<Coded>> {
        let name = field.unwrap_or_default().trim_ascii().to_ascii_lowercase();
        Some(match &name[..] {
            b"" | b"identity" => None,
            b"gzip" | b"x-gzip" => Some(Coded::Gzip),
            b"deflate" => Some(Coded::Deflate),
            b"br" => Some(Coded::Brotli),
            b"zstd" => Some(Coded::Zstd),
            _ => return None,
        })
    }

    /// The body as it was before, of so many bytes at most. Of nothing comes nothing.
    ///
    /// # Errors
    /// It would be larger, or is not in this coding.
    pub fn decode(self, body: &[u8], bytes_max: u64) -> Result<Vec<u8>, Broken> {
        if body.is_empty() {
            return Ok(Vec::new());
        }
        match self {
            Coded::Gzip => read(MultiGzDecoder::new(body), bytes_max),
            Coded::Deflate if is_zlib(body) => read(ZlibDecoder::new(body), bytes_max),
            Coded::Deflate => read(DeflateDecoder::new(body), bytes_max),
            Coded::Brotli => read(brotli::Decompressor::new(body, BROTLI_BUFFER), bytes_max),
            Coded::Zstd => read(zstd(body).map_err(|_| Broken::Malformed)?, bytes_max),
        }
    }
}

fn zstd(body: &[u8]) -> io::Result<impl Read> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(body)?;
    decoder.window_log_max(ZSTD_WINDOW_MAX)?;
    Ok(decoder)
}

/// RFC 1950, 2.2: the first two bytes say "deflate", and are a multiple of 31 together.
fn is_zlib(body: &[u8]) -> bool {
    matches!(body, [first, second, ..] if first & 0x0f == 8 && u16::from_be_bytes([*first, *second]) % 31 == 0)
}

fn read(reader: impl Read, bytes_max: u64) -> Result<Vec<u8>, Broken> {
    let mut out = Vec::new();
    reader.take(bytes_max.saturating_add(1)).read_to_end(&mut out).map_err(|_| Broken::Malformed)?;
    if out.len() as u64 > bytes_max { Err(Broken::TooLarge) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::compress::Coding;
    use crate::shape::encode::Encoder;
    use flate2::write::{DeflateEncoder, ZlibEncoder};
    use proptest::prelude::*;
    use std::io::Write;

    const ALL: [Coded; 4] = [Coded::Gzip, Coded::Deflate, Coded::Brotli, Coded::Zstd];

    fn coded(coding: Coded, body: &[u8]) -> Vec<u8> {
        let encoded = |coding| Encoder::new(coding).and_then(|mut encoder| encoder.encode(body, true)).expect("to encode").to_vec();
        match coding {
            Coded::Gzip => encoded(Coding::Gzip),
            Coded::Brotli => encoded(Coding::Brotli),
            Coded::Zstd => encoded(Coding::Zstd),
            Coded::Deflate => {
                let mut zlib = ZlibEncoder::new(Vec::new(), flate2::Compression::default());
                zlib.write_all(body).and_then(|()| zlib.finish()).expect("to encode")
            }
        }
    }

    #[test]
    fn a_bomb_goes_off_into_nothing() {
        let large = vec![b' '; 20 << 20];
        for coding in ALL {
            let bomb = coded(coding, &large);
            assert!(bomb.len() < 1 << 20, "{coding:?}: {}", bomb.len());
            assert_eq!(coding.decode(&bomb, (20 << 20) - 1), Err(Broken::TooLarge), "{coding:?}");
            assert_eq!(coding.decode(&bomb, 20 << 20).map(|body| body.len()), Ok(20 << 20), "{coding:?}");
            assert_eq!(coding.decode(&bomb[..bomb.len() / 2], 20 << 20), Err(Broken::Malformed), "{coding:?} that breaks off");
        }
    }

    #[test]
    fn a_window_beyond_all_measure_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("an encoder");
        encoder.window_log(27).and_then(|()| encoder.write_all(b"{}")).expect("to encode");
        assert_eq!(Coded::Zstd.decode(&encoder.finish().expect("to encode"), 100), Err(Broken::Malformed));
    }

    #[test]
    fn deflate_may_be_bare() {
        let mut bare = DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        bare.write_all(b"[1,2]").expect("to encode");
        assert_eq!(Coded::Deflate.decode(&bare.finish().expect("to encode"), 5), Ok(b"[1,2]".to_vec()));
    }

    #[test]
    fn names() {
        assert_eq!(Coded::of(None), Some(None));
        for (name, coding) in [
            ("identity", Some(None)),
            ("", Some(None)),
            (" GZip ", Some(Some(Coded::Gzip))),
            ("x-gzip", Some(Some(Coded::Gzip))),
            ("br", Some(Some(Coded::Brotli))),
            ("zstd", Some(Some(Coded::Zstd))),
            ("deflate", Some(Some(Coded::Deflate))),
            ("gzip, br", None),
            ("compress", None),
        ] {
            assert_eq!(Coded::of(Some(name.as_bytes())), coding, "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_was_coded_comes_back(body in proptest::collection::vec(any::<u8>(), 0..5_000)) {
            for coding in ALL {
                prop_assert_eq!(coding.decode(&coded(coding, &body), 5_000), Ok(body.clone()));
            }
        }

        #[test]
        fn any_bytes_are_read(body in proptest::collection::vec(any::<u8>(), 0..500), max in 0_u64..100) {
            for coding in ALL {
                if let Ok(out) = coding.decode(&body, max) {
                    prop_assert!(out.len() as u64 <= max);
                }
            }
        }
    }
}
