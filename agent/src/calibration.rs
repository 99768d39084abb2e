//! What `tailcliff calibrate` found on a host, kept in the user's state directory for later runs: one file with an entry for
//! each host, processor and version, since a home directory may be shared and figures of another machine mean nothing.

use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tailcliff_proto::{BUILD, v1};

/// Name of the file.
const FILE: &str = "calibration.json";
/// Bytes of the file that are read at most.
const MAX_FILE: u64 = 4 << 20;
/// Entries kept; the oldest goes first.
const MAX_ENTRIES: usize = 64;
/// Bytes of an entry that are passed on.
const MAX_ENTRY: usize = 64 << 10;

/// Where it is kept: `$XDG_STATE_HOME/tailcliff/` or `~/.local/state/tailcliff/`. `None` without either variable.
pub fn path() -> Option<PathBuf> {
    path_from(
        std::env::var_os("XDG_STATE_HOME").map(PathBuf::from),
        std::env::var_os("HOME").map(PathBuf::from),
    )
}

fn path_from(state: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    // The specification says that a relative one is to be passed over.
    let state = state.filter(|path| path.is_absolute());
    let home = home.filter(|path| path.is_absolute());
    let base = state.or_else(|| Some(home?.join(".local/state")))?;
    Some(base.join("tailcliff").join(FILE))
}

/// The entry of this host as JSON; `None` when there is none that can be read.
pub fn of_host(host: &v1::HostFacts) -> Option<String> {
    let text = read(&path()?).ok()?;
    let entry = entries(&text).remove(&key(host))?.to_string();
    (entry.len() <= MAX_ENTRY).then_some(entry)
}

/// Stores an entry, beside those of other hosts.
///
/// # Errors
/// As the file system says. A file that holds something else is no error: it is replaced.
pub fn store(path: &Path, host: &v1::HostFacts, entry: Value) -> io::Result<()> {
    let old = if path.is_file() { read(path)? } else { String::new() };
    let text = with_entry(&old, key(host), entry);
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    if path.exists() && !path.is_file() {
        // A device or a pipe is written to, never replaced.
        return write(path, &text);
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let written = write(&partial, &text).and_then(|()| std::fs::rename(&partial, path));
    if written.is_err() {
        let _not_there = std::fs::remove_file(&partial);
    }
    written
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(text.as_bytes())?;
    match file.sync_all() {
        // Not a file that is kept anywhere.
        Err(e) if e.kind() == ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

fn key(host: &v1::HostFacts) -> String {
    format!("{}|{}|{} cores|{BUILD}", host.hostname, host.cpu_model, host.cores)
}

fn entries(text: &str) -> Map<String, Value> {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(mut file)) => match file.remove("hosts") {
            Some(Value::Object(hosts)) => hosts,
            _ => Map::new(),
        },
        _ => Map::new(),
    }
}

fn with_entry(old: &str, key: String, entry: Value) -> String {
    let mut hosts = entries(old);
    // Put anew, so that it is the youngest.
    hosts.shift_remove(&key);
    while hosts.len() >= MAX_ENTRIES {
        let Some(oldest) = hosts.keys().next().cloned() else { break };
        hosts.shift_remove(&oldest);
    }
    hosts.insert(key, entry);
    format!("{:#}\n", json!({ "format": 1, "hosts": hosts }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_is_where_the_specification_says() {
        let path = |state: &str, home: &str| {
            let of = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
            path_from(of(state), of(home)).map(|p| p.to_string_lossy().into_owned())
        };
        let file = |folder: &str| Some(format!("{folder}/tailcliff/calibration.json"));
        assert_eq!(path("/s", "/h"), file("/s"));
        assert_eq!(path("", "/h"), file("/h/.local/state"));
        assert_eq!(path("relative", "/h"), file("/h/.local/state"));
        assert_eq!(path("", ""), None);
    }

    #[test]
    fn a_disk_without_room_is_an_error_and_leaves_no_partial_file() {
        use std::os::unix::fs::FileTypeExt;
        let host = v1::HostFacts { hostname: "h".to_owned(), ..Default::default() };
        let full = Path::new("/dev/full");
        assert_eq!(store(full, &host, json!(1)).unwrap_err().kind(), ErrorKind::StorageFull);
        assert!(std::fs::metadata(full).unwrap().file_type().is_char_device(), "it was not replaced");
        let dir = std::env::temp_dir().join(format!("tailcliff-calibration-test-{}", std::process::id()));
        let file = dir.join("deep").join(FILE);
        (1..=2).for_each(|n| store(&file, &host, json!(n)).unwrap());
        assert_eq!(entries(&read(&file).unwrap()).remove(&key(&host)), Some(json!(2)));
        let names: Vec<_> =
            std::fs::read_dir(dir.join("deep")).unwrap().map(|e| e.unwrap().file_name()).collect();
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(names, [FILE]);
        assert!(store(Path::new("/proc/nowhere/x"), &host, json!(1)).is_err());
    }

    #[test]
    fn an_entry_replaces_its_own_and_no_other() {
        let one = with_entry("", "a".to_owned(), json!({ "n": 1 }));
        let two = with_entry(&one, "b".to_owned(), json!({ "n": 2 }));
        let three = entries(&with_entry(&two, "a".to_owned(), json!({ "n": 3 })));
        assert_eq!((&three["a"]["n"], &three["b"]["n"], three.len()), (&json!(3), &json!(2), 2));
        let full = (0..200).fold(String::new(), |text, i| with_entry(&text, i.to_string(), json!(i)));
        let full = entries(&full);
        assert_eq!(
            (full.len(), full.contains_key("199"), full.contains_key("0")),
            (MAX_ENTRIES, true, false)
        );
        for odd in ["", "[]", "{\"hosts\": 3}", "not json"] {
            assert_eq!(entries(&with_entry(odd, "a".to_owned(), json!(1))).len(), 1, "{odd}");
        }
    }
}
