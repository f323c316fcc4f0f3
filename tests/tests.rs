//! Black-box tests: a YAML in, requests in, answers out. One program, so that it is linked once.
//!
//! `kit` starts gateways and origins on ports that the system chooses, and speaks to them; each file of `suite` holds one
//! feature.

mod kit;

mod suite {
    mod acme;
    mod admin;
    mod auth_access;
    mod auth_asked;
    mod auth_cors;
    mod auth_issuers;
    mod auth_jwt;
    mod auth_keys;
    mod auth_mtls;
    mod auth_secrets;
    mod balance;
    mod bodies;
    mod breaker;
    mod cache;
    mod cli;
    mod commands;
    mod compose;
    mod compose_cache;
    mod compress;
    mod corpus;
    mod deadlines;
    mod diff;
    mod discovery;
    mod drain;
    mod ejection;
    mod explain;
    mod faults;
    mod forwarding;
    mod gateway_api;
    mod goaway;
    mod grpc;
    mod health;
    mod house;
    mod http2;
    mod in_flight;
    mod include;
    mod keepalive;
    mod krakend;
    mod limits;
    mod log;
    mod mirror;
    mod overload;
    mod own_tests;
    mod pair;
    mod patience;
    mod pools;
    mod proxied;
    mod purges;
    mod refusals;
    mod reload;
    mod retries;
    mod routing;
    mod schema;
    mod shaping;
    mod shared;
    mod soak_upgrade;
    mod sockets;
    mod starved;
    mod strict;
    mod systemd;
    mod tls;
    mod tls_files;
    mod upgrade;
    mod vanish;
    mod websocket;
}
