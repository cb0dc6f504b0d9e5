//! The least recently used order.
