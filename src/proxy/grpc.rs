//! How long a gRPC client waits: `grpc-timeout` (gRPC over HTTP/2, Requests), which goes on less what has gone.

use super::deadline::{ms, now};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// A value has at most so many digits.
const DIGITS_MAX: usize = 8;
const VALUE_MAX: u64 = 99_999_999;

/// When the client gives up, in [`now`]'s time; 0 for never.
pub fn due(headers: &HeaderMap) -> u64 {
    let told = headers.get(GRPC_TIMEOUT).and_then(|value| parse(value.as_bytes()));
    told.map_or(0, |timeout| now() + ms(timeout).max(1))
}

/// What is left until then, as it goes on.
pub fn left(due: u64) -> HeaderValue {
    let left = due.saturating_sub(now()).max(1);
    // In 27 hours a second is nothing.
    let text = if left <= VALUE_MAX { format!("{left}m") } else { format!("{}S", (left / 1_000).min(VALUE_MAX)) };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("1m"))
}

fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3_600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_units_are_known_and_nothing_else() {
        for (text, ms) in [("1H", 3_600_000), ("2M", 120_000), ("3S", 3_000), ("4m", 4), ("5000u", 5), ("6000000n", 6), ("0m", 0)] {
            assert_eq!(parse(text.as_bytes()), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "S", "5", "123456789m", "-1S", "1.5S", "1s", "1 S", "+1S"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn what_goes_on_is_no_more_than_what_came() {
        let left = |ms| left(now() + ms).to_str().expect("a text").to_string();
        assert_eq!(left(0), "1m");
        assert!(left(5_000).strip_suffix('m').and_then(|text| text.parse().ok()).is_some_and(|left: u64| (4_000..=5_000).contains(&left)));
        assert_eq!(left(200_000_000_500), "99999999S");
        assert_eq!(left(360_000_000), "360000S");
    }

    proptest! {
        #[test]
        fn anything_may_come(value in prop::collection::vec(any::<u8>(), 0..12)) {
            let _ = parse(&value);
        }

        #[test]
        fn what_is_written_is_read(ms in 1u64..200_000_000) {
            let read = parse(left(now() + ms).as_bytes()).expect("a timeout");
            prop_assert!(read <= Duration::from_millis(ms) && read + Duration::from_secs(2) > Duration::from_millis(ms));
        }
    }
}
