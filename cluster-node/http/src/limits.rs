//! What a client may take of a server, all of it for an operator to change.

use std::time::Duration;

/// The longest path and query that can be configured: what the `http` crate takes at most.
pub const TARGET_BYTES_LIMIT: usize = 65_534;
/// The least that [`Limits::head_bytes_max`] may be: what IPFS Cluster accepts as its least, so that an operator's value is
/// taken over as it is.
pub const HEAD_BYTES_LEAST: usize = 4096;

/// Bounds of one server. The defaults suit a peer with some GiB of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at the same time, idle ones included. When all are in use, the one that has been idle longest makes room;
    /// when none is idle, a new one is told 503. Default 4,096: about 40 MiB when all are open.
    pub connections_max: usize,
    /// Requests at the same time, from their head to the end of their answer; a further one gets 503 with `Retry-After`.
    /// Default 1,024.
    pub requests_max: usize,
    /// Bytes of request line and headers; more gets 431. Default 80 KiB: a request line of the greatest length and 16 KiB of
    /// headers.
    pub head_bytes_max: usize,
    /// Bytes of path and query; more gets 414. Default and most 65,534, which is about a thousand CIDs in a query.
    pub target_bytes_max: usize,
    /// From the first byte of a head to its last, and from the accept of a connection to the first byte (with the TLS
    /// handshake); a head that began and stays behind gets 408. Default 15 s.
    pub head_timeout: Duration,
    /// Between two requests of a connection, which is closed then. Default 120 s, as in IPFS Cluster.
    pub idle_timeout: Duration,
    /// Between two pieces of a body that is waited for; more gets 408. Default 60 s.
    pub body_idle_timeout: Duration,
    /// For all of a body that is read as a whole (JSON); more gets 408. Default 30 s.
    pub body_timeout: Duration,
    /// Bytes of a body that is read as a whole; more gets 413. Default 1 MiB: a pin with all its metadata and origins fits
    /// several times. A multipart body has no bound, since it is never held.
    pub body_bytes_max: usize,
    /// For the client to take something while there is something to send; then the connection is broken. Default 60 s.
    pub stall_timeout: Duration,
    /// Parts of a multipart body, directories and links included; more gets 413. Default 1,000,000.
    pub parts_max: usize,
    /// Bytes of all headers of one part; more gets 400. Default 16 KiB: a path of the greatest length in its longest
    /// encoding.
    pub part_head_bytes_max: usize,
    /// For what is being answered when the end comes. Default 5 s.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            requests_max: 1024,
            head_bytes_max: 80 * 1024,
            target_bytes_max: TARGET_BYTES_LIMIT,
            head_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(120),
            body_idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(30),
            body_bytes_max: 1024 * 1024,
            stall_timeout: Duration::from_secs(60),
            parts_max: 1_000_000,
            part_head_bytes_max: 16 * 1024,
            grace: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// What is wrong with these values: the field's name, its value and what to set instead.
    pub fn check(&self) -> Result<(), InvalidLimit> {
        let least = |name, value: usize, least: usize| {
            if value < least {
                return Err(InvalidLimit(format!("{name} = {value}: set at least {least}")));
            }
            Ok(())
        };
        least("connections_max", self.connections_max, 1)?;
        least("requests_max", self.requests_max, 1)?;
        least("head_bytes_max", self.head_bytes_max, HEAD_BYTES_LEAST)?;
        least("target_bytes_max", self.target_bytes_max, 256)?;
        least("body_bytes_max", self.body_bytes_max, 1024)?;
        least("parts_max", self.parts_max, 1)?;
        least("part_head_bytes_max", self.part_head_bytes_max, 1024)?;
        if self.target_bytes_max > TARGET_BYTES_LIMIT {
            let value = self.target_bytes_max;
            let words = format!("target_bytes_max = {value}: set at most {TARGET_BYTES_LIMIT}");
            return Err(InvalidLimit(words));
        }
        for (name, value) in [
            ("head_timeout", self.head_timeout),
            ("idle_timeout", self.idle_timeout),
            ("body_idle_timeout", self.body_idle_timeout),
            ("body_timeout", self.body_timeout),
            ("stall_timeout", self.stall_timeout),
        ] {
            if value.is_zero() {
                let words = format!("{name} = 0s: a wait without a bound is not offered; set a long one, as 24h");
                return Err(InvalidLimit(words));
            }
        }
        Ok(())
    }
}

/// A limit that can't be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidLimit(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_accepted_and_what_cant_be_kept_is_named() {
        Limits::default().check().unwrap();
        let small = Limits {
            head_bytes_max: 4095,
            ..Limits::default()
        };
        assert_eq!(
            small.check().unwrap_err().to_string(),
            "head_bytes_max = 4095: set at least 4096"
        );
        let long = Limits {
            target_bytes_max: 65_535,
            ..Limits::default()
        };
        assert!(long.check().unwrap_err().to_string().contains("at most 65534"));
        let endless = Limits {
            stall_timeout: Duration::ZERO,
            ..Limits::default()
        };
        assert!(
            endless
                .check()
                .unwrap_err()
                .to_string()
                .starts_with("stall_timeout = 0s")
        );
    }
}
