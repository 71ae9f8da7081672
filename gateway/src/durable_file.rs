//! Small files replaced whole: whoever reads one, at any time and after any crash, reads the old content or the new.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

/// Of a file that was not there before: it may hold secrets.
const MODE_NEW: u32 = 0o600;

/// Replaces the content of a file, which keeps its mode and owner; a link stays a link. A file that is not there is made, for its owner
/// alone.
///
/// # Errors
/// What the system said; the old content is still there then.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let path = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        outcome => outcome?,
    };
    let new = beside(&path)?;
    let outcome = write(&new, &path, content).and_then(|()| fs::rename(&new, &path));
    if outcome.is_err() {
        let _ = fs::remove_file(&new); // The error before says more.
    }
    outcome?;
    File::open(folder(&path))?.sync_all() // The name, too, is on the disk then.
}

/// The folder of a file.
pub fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let name = format!(".{}.{}.new", name.to_string_lossy(), std::process::id());
    Ok(folder(path).join(name))
}

fn write(new: &Path, old: &Path, content: &[u8]) -> io::Result<()> {
    let _ = fs::remove_file(new); // Left by a killed process that had this number.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE_NEW)
        .open(new)?;
    file.write_all(content)?;
    if let Ok(known) = fs::metadata(old) {
        let own = file.metadata()?;
        if (known.uid(), known.gid()) != (own.uid(), own.gid()) {
            fchown(&file, Some(known.uid()), Some(known.gid()))?;
        }
        file.set_permissions(Permissions::from_mode(known.mode() & 0o7777))?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("roadstead-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    #[test]
    fn a_file_keeps_its_mode_and_a_link_stays_one() {
        let folder = scratch("durable-file");
        let (file, link) = (folder.join("users"), folder.join("link"));
        replace(&file, b"one").expect("made");
        let mode = |path: &Path| fs::metadata(path).expect("there").mode() & 0o7777;
        assert_eq!(mode(&file), MODE_NEW);
        fs::set_permissions(&file, Permissions::from_mode(0o640)).expect("ours");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        replace(&link, b"two").expect("replaced");
        assert_eq!(
            (fs::read(&file).expect("there"), mode(&file)),
            (b"two".to_vec(), 0o640)
        );
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        let names = fs::read_dir(&folder).expect("a folder").count();
        assert_eq!(names, 2, "nothing is left beside them");
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_content() {
        let folder = scratch("durable-file-bad");
        assert!(replace(&folder.join("none/users"), b"x").is_err());
        assert!(replace(&folder, b"x").is_err(), "a folder is no file");
        assert!(folder.is_dir());
        fs::remove_dir_all(&folder).expect("removed");
    }
}
