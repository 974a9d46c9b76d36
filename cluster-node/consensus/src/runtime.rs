//! Runtimes of their own, for what must not be delayed by the rest and for what must not delay the rest.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Handle, Runtime};

/// Waited for the threads of a runtime that is dropped without having been stopped.
const DROP_LIMIT: Duration = Duration::from_secs(10);

/// A runtime that may be given up in the middle of async code, where dropping it would panic; or the caller's.
///
/// Its threads are waited for. A thread that is left to itself closes a database at some later time, and when that is
/// while the process exits, the process aborts: what the database needs is destroyed already.
pub struct OwnRuntime {
    handle: Handle,
    own: Mutex<Option<Runtime>>,
}

/// How a runtime is made.
#[derive(Debug, Clone, Copy)]
pub struct RuntimeOptions {
    /// Of its threads.
    pub name: &'static str,
    /// Threads for what does not block; 0 = none of its own: everything runs on the caller's.
    pub threads: usize,
    /// Most threads for what blocks.
    pub blocking_max: usize,
    /// Called on each thread when it starts.
    pub on_thread_start: fn(),
}

impl OwnRuntime {
    /// Starts its threads.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start(options: RuntimeOptions) -> io::Result<Self> {
        if options.threads == 0 {
            return Ok(Self {
                handle: Handle::current(),
                own: Mutex::new(None),
            });
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.threads)
            .max_blocking_threads(options.blocking_max)
            .thread_name(options.name)
            .on_thread_start(options.on_thread_start)
            .enable_all()
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            own: Mutex::new(Some(runtime)),
        })
    }

    /// What runs things on it.
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
        let stopping = std::thread::Builder::new().name("runtime-stop".into()).spawn({
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

    /// Whether the caller runs on it.
    fn is_current(&self) -> bool {
        Handle::try_current().is_ok_and(|current| current.id() == self.handle.id())
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        self.stop_now();
    }
}
