//! Names that are safe on a disk.

use crate::ContentError;

/// Longest path, in bytes: what Linux takes.
pub const PATH_BYTES_MAX: usize = 4096;

/// Whether something may be created under this name in a directory, on any system: not empty, `.` or `..`, without `/`,
/// `\`, NUL, at most 255 bytes.
pub fn check_name(name: &[u8]) -> Result<(), ContentError> {
    unimplemented!("{name:?}")
}

/// Splits a path of a tar archive into names, each of which passes [`check_name`].
pub fn check_path(path: &[u8]) -> Result<Vec<&[u8]>, ContentError> {
    unimplemented!("{path:?}")
}

/// Whether a symlink at this path (of names that passed [`check_path`]) leads to something below the folder that is
/// written to.
pub fn symlink_stays_inside(path: &[u8], target: &[u8]) -> bool {
    unimplemented!("{path:?} {target:?}")
}
