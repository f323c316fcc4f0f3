//! HTTP/2 and gRPC, on both sides.
