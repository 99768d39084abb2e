//! Files as servers write them, and as they are rotated, cut and spoiled.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::inside::tests::{Heard, inside_of};

struct Scene {
    dir: TempDir,
    path: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stamps.jsonl");
        Self { dir, path }
    }

    fn append(&self, text: &str) {
        let file = OpenOptions::new().create(true).append(true).open(&self.path);
        file.unwrap().write_all(text.as_bytes()).unwrap();
    }
}

fn line(id: &str) -> String {
    format!("{{\"request_id\":\"{id}\",\"enqueue\":1795336038.5}}\n")
}

/// Lines and what is none, in words.
fn look(follower: &mut Follower, path: &Path) -> Vec<String> {
    let mut all = Vec::new();
    follower
        .look(path, AT_ONCE, &mut |taken| {
            all.push(owned(taken).map_or("BAD".to_owned(), |line| String::from_utf8(line).unwrap()));
        })
        .unwrap();
    all
}

#[test]
fn a_file_is_followed_from_where_it_ended() {
    let scene = Scene::new();
    scene.append("old\nhalf of an ol");
    let mut follower = Follower::at_end(&scene.path);
    assert!(look(&mut follower, &scene.path).is_empty());
    scene.append("d one\none\ntw");
    assert_eq!(look(&mut follower, &scene.path), ["one"], "the old one's end is none");
    scene.append("o\n\n\nthree\n");
    assert_eq!(look(&mut follower, &scene.path), ["two", "three"]);
    assert!(look(&mut follower, &scene.path).is_empty());
}

#[test]
fn one_that_is_not_there_yet_is_read_from_its_beginning() {
    let scene = Scene::new();
    let mut follower = Follower::at_end(&scene.path);
    assert!(look(&mut follower, &scene.path).is_empty());
    scene.append("one\n");
    assert_eq!(look(&mut follower, &scene.path), ["one"]);
}

#[test]
fn truncation_and_rotation_are_followed() {
    let scene = Scene::new();
    scene.append("old\n");
    let mut follower = Follower::at_end(&scene.path);
    scene.append("one\nhalf");
    assert_eq!(look(&mut follower, &scene.path), ["one"]);
    File::create(&scene.path).unwrap();
    scene.append("two\n");
    assert_eq!(look(&mut follower, &scene.path), ["BAD", "two"], "the half line is gone");
    // Rotated: what was written to the old one after the last look is read first.
    scene.append("three\n");
    std::fs::rename(&scene.path, scene.dir.path().join("stamps.1")).unwrap();
    scene.append("four\n");
    assert_eq!(look(&mut follower, &scene.path), ["three", "four"]);
    scene.append("five\n");
    assert_eq!(look(&mut follower, &scene.path), ["five"]);
    // Removed, and there again.
    std::fs::remove_file(&scene.path).unwrap();
    assert!(look(&mut follower, &scene.path).is_empty());
    scene.append("six\n");
    assert_eq!(look(&mut follower, &scene.path), ["six"]);
}

#[test]
fn a_server_that_has_not_noticed_a_rotation_loses_nothing() {
    let scene = Scene::new();
    scene.append("old\n");
    let mut follower = Follower::at_end(&scene.path);
    let mut writer = OpenOptions::new().append(true).open(&scene.path).unwrap();
    std::fs::rename(&scene.path, scene.dir.path().join("stamps.1")).unwrap();
    assert!(look(&mut follower, &scene.path).is_empty());
    // Its name is not taken again yet, then is.
    writer.write_all(b"one\ntw").unwrap();
    assert_eq!(look(&mut follower, &scene.path), ["one"]);
    scene.append("new\n");
    writer.write_all(b"o\nthree").unwrap();
    assert_eq!(look(&mut follower, &scene.path), ["two", "new"]);
    // It is left in the end: its unfinished last line as it is.
    let rest: Vec<String> = (0..follow::LAST_LOOKS).flat_map(|_| look(&mut follower, &scene.path)).collect();
    assert_eq!(rest, ["three"]);
    writer.write_all(b"four\n").unwrap();
    scene.append("newer\n");
    assert_eq!(look(&mut follower, &scene.path), ["newer"]);
}

#[test]
fn a_line_without_end_takes_no_memory_and_counts_once() {
    let scene = Scene::new();
    let mut follower = Follower::at_end(&scene.path);
    let long = "x".repeat(300_000);
    scene.append(&long);
    assert_eq!(look(&mut follower, &scene.path), ["BAD"]);
    scene.append(&long);
    assert!(look(&mut follower, &scene.path).is_empty());
    scene.append("x\nafter\n");
    assert_eq!(look(&mut follower, &scene.path), ["after"]);
}

#[test]
fn what_is_no_file_is_refused_and_a_pipe_waits_for_nobody() {
    let scene = Scene::new();
    let mut follower = Follower::at_end(scene.dir.path());
    let error = follower.look(scene.dir.path(), AT_ONCE, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("no file"), "{error}");
    nix::unistd::mkfifo(&scene.path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut follower = Follower::at_end(&scene.path);
    assert!(follower.look(&scene.path, AT_ONCE, &mut |_| {}).is_err());
}

proptest! {
    #[test]
    fn however_it_is_written_each_line_is_read_once(
        lines in proptest::collection::vec("[a-z]{1,30}", 0..20),
        cuts in proptest::collection::vec(0usize..40, 0..30),
    ) {
        let scene = Scene::new();
        let mut follower = Follower::at_end(&scene.path);
        let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        let (mut read, mut rest) = (Vec::new(), text.as_str());
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            scene.append(now);
            rest = later;
            read.extend(look(&mut follower, &scene.path));
        }
        prop_assert_eq!(read, lines);
    }
}

#[tokio::test]
async fn stamps_and_bad_lines_reach_the_outbox_and_the_last_ones_too() {
    let scene = Scene::new();
    scene.append(&line("before"));
    let heard = Heard::new(1 << 20);
    let (stop, inside) = (CancellationToken::new(), inside_of(|i| i.stamps = Some(scene.path.clone())));
    let (sink, token) = (heard.sink.clone(), stop.clone());
    let tailing = tokio::spawn(async move { tail(&inside, sink, token).await });
    // It has begun when it has looked once.
    tokio::time::sleep(EVERY / 4).await;
    heard.switch.on.store(false, Relaxed);
    scene.append(&line("of-no-run"));
    tokio::time::sleep(2 * EVERY).await;
    heard.switch.on.store(true, Relaxed);
    scene.append(&format!("{}nonsense\n{}", line("a"), line("b")));
    let all = heard.until(|all| all.server_stamps.len() == 2).await;
    assert_eq!(all.server_stamps[0].enqueue_unix_ns, Some(1_795_336_038_500_000_000));
    // One that has no end is whole when nothing follows; half a one is none.
    scene.append(line("c").trim_end());
    stop.cancel();
    tailing.await.unwrap();
    let ids: Vec<String> = heard.all().server_stamps.into_iter().map(|stamps| stamps.request_id).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    let totals = *heard.sink.tally.totals();
    assert_eq!((totals.lines, totals.bad_lines, totals.without_room), (4, 1, 0));
}

#[tokio::test]
async fn what_cannot_be_read_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut heard = Heard::new(1 << 20);
    let mut tail = Tail::new(dir.path(), heard.sink.clone());
    (0..3).for_each(|_| tail.look(AT_ONCE));
    drop(tail);
    let told = heard.told.try_recv().unwrap();
    assert!(told.contains("failed to read stamps") && told.contains("no file"), "{told}");
    assert!(heard.told.try_recv().is_err());
}

/// What is told at the end of a file of so many bytes in lines, and how many lines were read.
async fn told_of(bytes: Option<usize>) -> (Vec<String>, usize) {
    let scene = Scene::new();
    let mut heard = Heard::new(256 << 20);
    let mut tail = Tail::new(&scene.path, heard.sink.clone());
    let each = line("a");
    if let Some(bytes) = bytes {
        scene.append(&each.repeat(bytes / each.len()));
    }
    tail.finish().await;
    drop(tail);
    let told = std::iter::from_fn(|| heard.told.try_recv().ok()).collect();
    (told, heard.all().server_stamps.len())
}

#[tokio::test]
async fn at_the_end_what_was_not_read_or_never_there_is_told() {
    assert_eq!(told_of(Some(0)).await, (Vec::new(), 0));
    let (told, lines) = told_of(Some(3 << 20)).await;
    assert_eq!((told, lines), (Vec::new(), (3 << 20) / line("a").len()));
    let (told, lines) = told_of(Some(70 << 20)).await;
    assert!(told.len() == 1 && told[0].contains("bytes of stamps") && lines > 0, "{told:?}");
    let (told, _) = told_of(None).await;
    assert!(told.len() == 1 && told[0].contains("never was a file"), "{told:?}");
}
