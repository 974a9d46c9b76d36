//! Free loopback ports that stay the same over restarts.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::bail;
use rand::Rng;

/// Below the range from which Linux takes the ports of outgoing connections, so that no connection of a busy test sits on
/// the port of a peer that is down for a moment.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// A free loopback address that no other harness on this machine was given lately.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    let folder = std::env::temp_dir().join("pinfleet-ports");
    fs::create_dir_all(&folder)?;
    let mut random = rand::rng();
    for _ in 0..1_000 {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, random.random_range(RANGE)));
        if claim(&folder.join(address.port().to_string())) && TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port between {} and {}", RANGE.start, RANGE.end)
}

/// Harnesses run side by side and bind their ports later: a file each, older ones count no more.
fn claim(path: &std::path::Path) -> bool {
    const LATELY: std::time::Duration = std::time::Duration::from_secs(600);
    let old = fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > LATELY));
    if old {
        // Another one may have been faster; then the next line fails.
        let _ = fs::remove_file(path);
    }
    File::create_new(path).is_ok()
}
