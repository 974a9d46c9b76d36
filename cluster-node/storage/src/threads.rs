//! Which threads go first when the processors are all in use.

/// How much less a thread gets that works in the background: on Linux a seventieth of one that does not, and all that is
/// left over otherwise (`nice(2)`).
const BACKGROUND_NICE: i32 = 19;

/// Lets others go before the calling thread: what answers a client or the other peers is not to wait for work that only
/// has to be done some time.
pub fn lower_priority() {
    // The kernel counts niceness by thread, whatever POSIX says of processes. Being refused costs only the order.
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), BACKGROUND_NICE) {
        tracing::debug!(%error, "a thread of the background runs at the common priority");
    }
}
