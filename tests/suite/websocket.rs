//! WebSocket tunnels.
