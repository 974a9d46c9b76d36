//! Names that come out of an archive, before they touch a disk.

/// Splits the path of an entry into names under which something may be created: nothing empty, no `.`, no `..`, no NUL.
/// One slash at the end, as directories have it, is passed over. The error says what is wrong.
pub fn split(path: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    let names: Vec<&[u8]> = path
        .strip_suffix(b"/")
        .unwrap_or(path)
        .split(|byte| *byte == b'/')
        .collect();
    match names.as_slice() {
        [b""] => return Err("it is empty"),
        [b"", ..] => return Err("it begins with a slash"),
        _ => {}
    }
    for name in &names {
        match *name {
            b"" => return Err("it has an empty name in it"),
            b"." | b".." => return Err("it has a `.` or `..` in it"),
            name if name.contains(&0) => return Err("it has a NUL in it"),
            _ => {}
        }
    }
    Ok(names)
}

/// Whether a symlink with so many directories between it and the root stays inside of the root, whatever else is there,
/// as long as all symlinks do.
///
/// It may climb at its beginning only: a `..` behind a name climbs from wherever that name leads, and it may be a
/// symlink.
pub fn stays_inside(depth: usize, target: &[u8]) -> bool {
    if target.first().is_none_or(|byte| *byte == b'/') || target.contains(&0) {
        return false;
    }
    let mut above = depth;
    let mut has_descended = false;
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if has_descended || above == 0 => return false,
            b".." => above -= 1,
            _ => has_descended = true,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_could_lead_elsewhere_are_refused() {
        assert_eq!(split(b"a/b c/...").expect("fine"), [&b"a"[..], b"b c", b"..."]);
        assert_eq!(split(b"a/").expect("a directory"), [b"a"]);
        for bad in [
            "", "/", "/a", "//", "a//b", "a/b//", ".", "..", "a/..", "a/./b", "../a", "a\0",
        ] {
            assert!(split(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn symlinks_that_could_lead_elsewhere_are_seen() {
        for (depth, target) in [
            (0, "a"),
            (0, "./a/b"),
            (0, "."),
            (1, "../a"),
            (2, ".././../a"),
            (0, "a//b"),
        ] {
            assert!(stays_inside(depth, target.as_bytes()), "{depth} {target}");
        }
        for (depth, target) in [
            (0, ""),
            (9, "/a"),
            (0, ".."),
            (1, "../../a"),
            (5, "a/.."),
            (1, "../a/../b"),
            (0, "a\0"),
        ] {
            assert!(!stays_inside(depth, target.as_bytes()), "{depth} {target}");
        }
    }
}
