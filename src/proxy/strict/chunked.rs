//! The framing of a chunked body (RFC 9112, 7.1), followed byte by byte and strictly: Pingora takes an empty size for 0, and
//! reads past what it does not know.

/// Digits of a chunk's size: none is larger than what fits in 60 bits.
const DIGITS_MAX: u8 = 15;
/// Bytes of all chunk extensions of a body together. Nobody uses them, but for hiding requests and for wasting time.
const EXTENSION_BYTES_MAX: u32 = 1 << 10;
/// Bytes of all trailer fields.
const TRAILER_BYTES_MAX: u32 = 8 << 10;

/// The body's framing is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// The size of a chunk, and how many digits of it have come.
    #[default]
    Begin,
    Size(u8),
    Extension,
    /// The LF behind a size.
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    /// The begin of a trailer field, or of the last line.
    Line,
    Trailer,
    TrailerEnd,
    LastLf,
    Done,
}

/// Where in a chunked body we are.
#[derive(Clone, Debug, Default)]
pub struct Chunks {
    state: State,
    /// Bytes of the chunk that are still to come.
    left: u64,
    extension_bytes: u32,
    trailer_bytes: u32,
}

impl Chunks {
    /// All of the body has come.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Follows the next `bytes`, and says how many of them belong to the body.
    ///
    /// # Errors
    /// The framing is broken: nothing that follows can be believed.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            if self.state == State::Data {
                let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                self.left -= taken as u64;
                at += taken;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            self.state = self.step(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<State, Malformed> {
        let is_text = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        Ok(match (self.state, byte) {
            (State::Begin, _) if byte.is_ascii_hexdigit() => self.digit(byte, 1),
            (State::Size(digits), _) if byte.is_ascii_hexdigit() && digits < DIGITS_MAX => self.digit(byte, digits + 1),
            (State::Size(_), b';') => State::Extension,
            (State::Size(_) | State::Extension, b'\r') => State::SizeEnd,
            (State::Extension, _) if is_text => {
                self.extension_bytes += 1;
                if self.extension_bytes > EXTENSION_BYTES_MAX {
                    return Err(Malformed);
                }
                State::Extension
            }
            (State::SizeEnd, b'\n') if self.left == 0 => State::Line,
            (State::SizeEnd, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Begin,
            (State::Line, b'\r') => State::LastLf,
            // Neither a folded line nor one without a name.
            (State::Line, _) if is_text && !matches!(byte, b' ' | b'\t' | b':') => self.trailer()?,
            (State::Trailer, b'\r') => State::TrailerEnd,
            (State::Trailer, _) if is_text => self.trailer()?,
            (State::TrailerEnd, b'\n') => State::Line,
            (State::LastLf, b'\n') => State::Done,
            _ => return Err(Malformed),
        })
    }

    fn digit(&mut self, byte: u8, digits: u8) -> State {
        let value = char::from(byte).to_digit(16).unwrap_or_default();
        self.left = self.left << 4 | u64::from(value);
        State::Size(digits)
    }

    fn trailer(&mut self) -> Result<State, Malformed> {
        self.trailer_bytes += 1;
        (self.trailer_bytes <= TRAILER_BYTES_MAX).then_some(State::Trailer).ok_or(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn follow(text: &str) -> Result<(usize, bool), Malformed> {
        let mut chunks = Chunks::default();
        chunks.advance(text.as_bytes()).map(|taken| (taken, chunks.is_done()))
    }

    #[test]
    fn bodies_end_where_they_end() {
        for text in
            ["0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "A;x=y\r\n0123456789\r\n00\r\nT: v\r\nU: w\r\n\r\n", "3;\"q r\"\r\na\r\n\r\n0\r\n\r\n"]
        {
            assert_eq!(follow(text), Ok((text.len(), true)), "{text:?}");
            assert_eq!(follow(&format!("{text}GET / HTTP/1.1\r\n")), Ok((text.len(), true)), "{text:?}");
            (0..text.len()).for_each(|end| assert_eq!(follow(&text[..end]), Ok((end, false)), "{:?}", &text[..end]));
        }
    }

    #[test]
    fn broken_framing_is_seen() {
        for text in [
            "\r\n0\r\n\r\n",
            "0x1\r\na",
            "-1\r\n",
            "+1\r\n",
            "1_0\r\n",
            " 1\r\n",
            "1 \r\n",
            "1\n",
            "1\r\r\n",
            "1\r\nab",
            "1\r\na\n0",
            "1;\n",
            "1;\0\r\n",
            "g\r\n",
            "1000000000000000\r\n",
            "0\r\n\n",
            "0\r\n T: v\r\n",
            "0\r\n: v\r\n",
            "0\r\nT: v\n\r\n",
        ] {
            assert_eq!(follow(text), Err(Malformed), "{text:?}");
        }
        let long = "a".repeat(2000);
        assert_eq!(follow(&format!("1;{long}\r\n")), Err(Malformed));
        assert_eq!(follow(&format!("1;{long}")), Err(Malformed));
        assert_eq!(follow(&format!("0\r\nT: {}", "a".repeat(9000))), Err(Malformed));
    }

    proptest! {
        #[test]
        fn however_it_comes_it_is_followed_alike(text in "([0-9a-f]{1,2}(;[a-z]{0,2})?\r\n[ -~]{0,4}(\r\n)?){0,4}(0\r\n(T: v\r\n)?\r\n)?.{0,4}", cut in any::<prop::sample::Index>()) {
            let bytes = text.as_bytes();
            let whole = Chunks::default().advance(bytes);
            let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
            let mut chunks = Chunks::default();
            let parts = chunks.advance(first).and_then(|taken| match chunks.is_done() {
                true => Ok(taken),
                false => chunks.advance(second).map(|more| taken + more),
            });
            prop_assert_eq!(whole, parts);
        }
    }
}
