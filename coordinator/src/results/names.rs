//! Which files a fetch accepts: the name and the size come from another host, and become a path and a full disk here.

use std::path::Path;

use tailcliff_proto::v1::ResultFile;

/// Files of a run at most.
const MOST_FILES: usize = 64;
/// Longest name.
const LONGEST_NAME: usize = 100;

/// Refuses a listing that would write outside of the directory, over another file, or more than `most_bytes` in all.
///
/// # Errors
/// What is wrong, for a person.
pub fn check(files: &[ResultFile], most_bytes: u64) -> Result<(), String> {
    if files.len() > MOST_FILES {
        return Err(format!("it offers {} files, and a run has fewer than {MOST_FILES}", files.len()));
    }
    for (i, file) in files.iter().enumerate() {
        if !is_plain(&file.name) {
            return Err(format!("it offers a file named {:?}, which is no plain name", file.name));
        }
        if files[..i].iter().any(|other| other.name == file.name) {
            return Err(format!("it offers {:?} twice", file.name));
        }
    }
    let total = files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.size_bytes));
    if total > most_bytes {
        return Err(format!(
            "it offers {} MiB, more than the {} of --max-mib",
            total >> 20,
            most_bytes >> 20
        ));
    }
    Ok(())
}

/// A name of our own kind, in no folder: letters, digits and `._-`, and not hidden.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty()
        && name.len() <= LONGEST_NAME
        && name.chars().all(plain)
        && !name.starts_with(['.', '-'])
        && !name.ends_with(".partial")
        && Path::new(name).file_name().is_some_and(|last| last == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, size_bytes: u64) -> ResultFile {
        ResultFile { name: name.to_owned(), size_bytes }
    }

    #[test]
    fn what_would_leave_the_directory_or_fill_the_disk_is_refused() {
        assert!(check(&[file("summary.json", 5), file("journal.tcj", 5)], 10).is_ok());
        for name in ["", ".", "..", "a/b", "/etc/passwd", "..\\x", ".ssh", "a\0b", "-rf", "a.partial", "é"] {
            assert!(check(&[file(name, 1)], 10).is_err(), "{name:?}");
        }
        assert!(check(&[file("a", 1), file("a", 1)], 10).unwrap_err().contains("twice"));
        assert!(check(&[file("a", 6), file("b", 5)], 10).unwrap_err().contains("--max-mib"));
        assert!(check(&[file("a", u64::MAX), file("b", u64::MAX)], u64::MAX - 1).is_err());
        let many: Vec<_> = (0..100).map(|i| file(&format!("f{i}"), 0)).collect();
        assert!(check(&many, 10).is_err());
    }
}
