//! The runtime of its own that Raft runs on.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Handle, Runtime};

/// Applying, reading old entries, building, sending and receiving snapshots.
const BLOCKING_THREADS_MAX: usize = 16;

/// Waited for the threads of a runtime that is dropped without having been stopped.
const DROP_LIMIT: Duration = Duration::from_secs(10);

/// A runtime that may be given up in the middle of async code, where dropping it would panic; or the caller's.
///
/// Its threads are waited for. A thread that is left to itself closes a database at some later time, and when that is
/// while the process exits, the process aborts: what the database needs is destroyed already.
pub(crate) struct OwnRuntime {
    handle: Handle,
    own: Mutex<Option<Runtime>>,
}

impl OwnRuntime {
    /// With so many threads; none = the caller's.
    pub fn start(threads: usize) -> io::Result<Self> {
        if threads == 0 {
            return Ok(Self {
                handle: Handle::current(),
                own: Mutex::new(None),
            });
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("raft")
            .enable_all()
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            own: Mutex::new(Some(runtime)),
        })
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends all its tasks and waits for its threads.
    pub async fn stop(&self, limit: Duration) {
        if self.is_current() {
            // A thread can't wait for itself; what is dropped last does it.
            return;
        }
        let Some(runtime) = self.own.lock().take() else { return };
        let _ = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(limit)).await;
    }

    /// The same for where there is nothing to await. Blocks.
    pub fn stop_now(&self) {
        let Some(runtime) = self.own.lock().take() else { return };
        let own = self.is_current();
        // A runtime can't be waited for on a thread of another one, so that is left to a thread of neither.
        let runtime = Arc::new(Mutex::new(Some(runtime)));
        let stopping = std::thread::Builder::new().name("raft-stop".into()).spawn({
            let runtime = Arc::clone(&runtime);
            move || {
                if let Some(runtime) = runtime.lock().take() {
                    runtime.shutdown_timeout(DROP_LIMIT);
                }
            }
        });
        match stopping {
            Ok(stopping) if !own => drop(stopping.join()),
            Ok(_) => {}
            Err(_) => {
                if let Some(runtime) = runtime.lock().take() {
                    runtime.shutdown_background();
                }
            }
        }
    }

    fn is_current(&self) -> bool {
        Handle::try_current().is_ok_and(|current| current.id() == self.handle.id())
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        self.stop_now();
    }
}
