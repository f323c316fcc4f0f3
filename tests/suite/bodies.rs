//! Bodies both ways: framing, sizes, limits, interim answers, trailers.
