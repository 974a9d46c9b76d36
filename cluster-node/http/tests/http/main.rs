//! Servers as they are, spoken to byte by byte.

mod bounds;
mod lasting;
mod layer;
mod support;
mod tls;
mod trailers;
