//! File system steps that must survive a power cut.

use std::fs::{self, File};
use std::path::Path;

use crate::StoreError;

/// Makes renames and new names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    let file = File::open(folder).map_err(StoreError::io(folder))?;
    file.sync_all().map_err(StoreError::io(folder))
}

/// Makes a folder, and those above it that are missing, and makes their names durable: without that, a crash may take
/// away a folder with everything in it that was synced. It may be there already.
pub(crate) fn make_folder(folder: &Path) -> Result<(), StoreError> {
    let missing: Vec<&Path> = folder
        .ancestors()
        .filter(|above| !above.as_os_str().is_empty())
        .take_while(|above| !above.exists())
        .collect();
    fs::create_dir_all(folder).map_err(StoreError::io(folder))?;
    // From the top down: a name is worth nothing while the folder it is in may go.
    for made in missing.into_iter().rev() {
        match made.parent() {
            Some(above) if !above.as_os_str().is_empty() => sync_folder(above)?,
            _ => sync_folder(Path::new("."))?,
        }
    }
    Ok(())
}

/// Makes the content of a file durable.
pub(crate) fn sync_file(path: &Path) -> Result<(), StoreError> {
    let file = File::open(path).map_err(StoreError::io(path))?;
    file.sync_all().map_err(StoreError::io(path))
}

/// Replaces a small file: afterwards it has the old content or the new one, whatever happens in between.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let fresh = path.with_extension("new");
    fs::write(&fresh, content).map_err(StoreError::io(&fresh))?;
    sync_file(&fresh)?;
    fs::rename(&fresh, path).map_err(StoreError::io(path))?;
    match path.parent() {
        Some(folder) => sync_folder(folder),
        None => Ok(()),
    }
}

/// Renames and makes the new name durable.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(StoreError::io(to))?;
    match to.parent() {
        Some(folder) => sync_folder(folder),
        None => Ok(()),
    }
}

/// Names in a folder that are valid UTF-8; this crate makes no others.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(StoreError::io(folder))? {
        let entry = entry.map_err(StoreError::io(folder))?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Removes a folder with everything in it; it need not be there.
pub(crate) fn remove_folder(folder: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io(folder)(error)),
    }
}

/// Begins the names of folders that are being removed.
pub(crate) const DOOMED: &str = "doomed-";

/// Removes a folder that may hold gigabytes, without making the caller wait. Its name is free at once. What a crash
/// leaves is removed when the store is opened again.
pub(crate) fn remove_folder_later(folder: std::path::PathBuf) {
    let aside = folder.with_file_name(fresh_name(DOOMED));
    let folder = match fs::rename(&folder, &aside) {
        Ok(()) => aside,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "an old folder is left until the next start");
            return;
        }
    };
    let spawned = std::thread::Builder::new().name("store-remove".into()).spawn({
        let folder = folder.clone();
        move || {
            if let Err(error) = remove_folder(&folder) {
                tracing::warn!(%error, "an old folder is left until the next start");
            }
        }
    });
    if let Err(error) = spawned {
        tracing::warn!(folder = %folder.display(), %error, "an old folder is left until the next start");
    }
}

/// A name that no other folder has: process and counter are enough, because leftovers are removed at open.
pub(crate) fn fresh_name(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{}-{number}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_with_those_above_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let deep = folder.path().join("a/b/c");
        make_folder(&deep).expect("made");
        assert!(deep.is_dir());
        make_folder(&deep).expect("it is there already");
    }

    #[test]
    fn a_folder_that_is_removed_later_frees_its_name_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let old = folder.path().join("gen-2");
        fs::create_dir(&old).expect("made");
        fs::write(old.join("file"), "old").expect("written");
        remove_folder_later(old.clone());
        // What is made under the same name right afterwards must not go with the old content.
        fs::create_dir(&old).expect("the name is free");
        fs::write(old.join("file"), "new").expect("written");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while names(folder.path()).expect("read") != ["gen-2"] {
            assert!(std::time::Instant::now() < deadline, "the old folder does not go");
            std::thread::yield_now();
        }
        assert_eq!(fs::read_to_string(old.join("file")).expect("read"), "new");
    }
}
