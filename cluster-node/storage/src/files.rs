//! File system steps that must survive a power cut.

use std::fs::{self, File};
use std::path::Path;

use crate::StoreError;

/// Makes renames and new names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    let file = File::open(folder).map_err(StoreError::io(folder))?;
    file.sync_all().map_err(StoreError::io(folder))
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

/// Removes a folder that may hold gigabytes, without making the caller wait. What a crash leaves is removed when the
/// store is opened again.
pub(crate) fn remove_folder_later(folder: std::path::PathBuf) {
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
