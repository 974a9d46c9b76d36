//! Free loopback ports that stay the same over restarts.

use std::fs::{self, File};
use std::io::Write as _;
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

/// Harnesses run side by side and bind their ports later: a file each, older ones count no more. Its age is looked at and made
/// new under a lock: two that found an old one at the same time would both take the port.
fn claim(path: &std::path::Path) -> bool {
    const LATELY: std::time::Duration = std::time::Duration::from_secs(600);
    let opened = File::options().create(true).write(true).truncate(false).open(path);
    let Ok(mut file) = opened else { return false };
    if file.try_lock().is_err() {
        return false;
    }
    let is_taken = file.metadata().is_ok_and(|data| {
        let age = data.modified().ok().and_then(|modified| modified.elapsed().ok());
        // One that has just been made by this very call is empty.
        data.len() > 0 && age.is_none_or(|age| age <= LATELY)
    });
    !is_taken && file.set_len(0).and_then(|()| file.write_all(b".")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_claim_is_taken_over_by_one_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        for round in 0..200 {
            let path = folder.path().join(round.to_string());
            fs::write(&path, ".").expect("written");
            let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3_600);
            let file = File::options().write(true).open(&path).expect("there");
            file.set_modified(old).expect("made old");
            drop(file);
            let together = std::sync::Barrier::new(8);
            let taken = std::thread::scope(|scope| {
                let tries: Vec<_> = (0..8)
                    .map(|_| {
                        scope.spawn(|| {
                            together.wait();
                            claim(&path)
                        })
                    })
                    .collect();
                tries
                    .into_iter()
                    .map(|tried| tried.join().expect("no panic"))
                    .filter(|taken| *taken)
                    .count()
            });
            assert_eq!(taken, 1);
            assert!(!claim(&path), "it was taken just now");
        }
    }
}
