//! Names that are safe on a disk.
//!
//! A directory may hold names of any bytes: `..`, `/etc/passwd`, `a/b`. A tar archive that is made here holds none of them.
//! Targets of symlinks are given as they are: whoever unpacks it makes symlinks last, so that no name leads through one.

use crate::ContentError;

/// Longest path, in bytes: what Linux takes.
pub const PATH_BYTES_MAX: usize = 4096;

/// Longest name, in bytes: what file systems take.
pub const NAME_BYTES_MAX: usize = 255;

/// Whether something may be created under this name in a directory, on any system: not empty, `.` or `..`, without `/`,
/// `\` and control characters (a terminal obeys some of them), at most [`NAME_BYTES_MAX`] bytes.
pub fn check_name(name: &[u8]) -> Result<(), ContentError> {
    let reason = if name.is_empty() || name == b"." || name == b".." {
        "is no name of a file: content that has it can be read, but not be written to a disk"
    } else if name
        .iter()
        .any(|byte| matches!(byte, b'/' | b'\\' | 0x7f) || *byte < 0x20)
    {
        "holds a slash, a backslash or a control character: written to a disk it could end up elsewhere"
    } else if name.len() > NAME_BYTES_MAX {
        "is longer than the 255 bytes that file systems take"
    } else {
        return Ok(());
    };
    Err(bad("name", name, reason))
}

/// Splits a path of a tar archive into names, each of which passes [`check_name`]. One `/` at the end, as directories
/// have it, is passed over.
pub fn check_path(path: &[u8]) -> Result<Vec<&[u8]>, ContentError> {
    if path.len() > PATH_BYTES_MAX {
        return Err(bad("path", path, "is longer than the 4096 bytes that a path may have"));
    }
    let names: Vec<&[u8]> = path
        .strip_suffix(b"/")
        .unwrap_or(path)
        .split(|byte| *byte == b'/')
        .collect();
    for name in &names {
        check_name(name)?;
    }
    Ok(names)
}

pub(crate) fn bad(field: &'static str, value: &[u8], reason: &'static str) -> ContentError {
    let beginning = &value[..value.len().min(80)];
    let mut value_shown = String::from_utf8_lossy(beginning).into_owned();
    if beginning.len() < value.len() {
        value_shown.push('…');
    }
    ContentError::BadEntry {
        field,
        value: value_shown,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        for name in ["a", "...", ".hidden", "with space", "ü", "-rf", "a:b"] {
            check_name(name.as_bytes()).expect(name);
        }
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for name in [
            "", ".", "..", "a/b", "/", "a\\b", "a\0b", "a\nb", "\x1b[2J", "\x7f", &long,
        ] {
            let error = check_name(name.as_bytes()).expect_err(name);
            assert!(matches!(error, ContentError::BadEntry { field: "name", .. }), "{error}");
        }
        check_name(&long.as_bytes()[1..]).expect("the longest");
    }

    #[test]
    fn paths_are_split_into_safe_names() {
        assert_eq!(check_path(b"a/b/c").expect("safe"), [b"a", b"b", b"c"]);
        assert_eq!(check_path(b"a/").expect("a directory"), [b"a"]);
        for path in ["", "/", "/a", "a//b", "a/../b", "..", "../a", "a/.", "a/b//"] {
            check_path(path.as_bytes()).expect_err(path);
        }
        check_path("a/".repeat(PATH_BYTES_MAX).as_bytes()).expect_err("too long");
    }
}
