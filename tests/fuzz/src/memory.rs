//! How much memory something takes. libFuzzer's own limits see the whole process and are too coarse for a decoder.

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Does something, and says how many bytes it held at most beyond those that were held before. True only while no other
/// thread allocates.
pub(crate) fn measure<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let done = work();
    (done, MEMORY.peak_usage().saturating_sub(before))
}
