//! A journal read back: in memory or left where it is, the same files come of it.

use super::*;
use crate::journal::{Exchanges, Journal, LevelPlanned, LevelShare, StoredBatch};
use crate::merge::testrun;
use crate::outputs::{FILES, write_all};

/// As a coordinator would have written it, with batches of all nodes interleaved.
fn journal_of(data: &RunData, dir: &Path) {
    let journal = Journal::create(dir).unwrap();
    let append = |of, fact| journal.append(Entry { incarnation: of, fact: Some(fact) }, None).unwrap();
    append(0, Fact::Header(serde_json::to_string(&data.header).unwrap()));
    let mut joined: Vec<_> = data.nodes.iter().map(|(&of, node)| (of, node)).collect();
    joined.sort_by_key(|(_, node)| (node.hello.node_kind, node.index));
    for (of, node) in joined {
        append(of, Fact::Hello(node.hello.clone()));
        let stamps_ns = node.exchanges.iter().flat_map(|e| [e.t0, e.t1, e.t2, e.t3]).collect();
        append(of, Fact::Exchanges(Exchanges { stamps_ns }));
        node.snapshots.iter().for_each(|snapshot| append(of, Fact::Snapshot(snapshot.clone())));
    }
    for log in &data.levels {
        append(0, Fact::Level(LevelPlanned::new(log.drive, log.load, log.start_ref_ns)));
        for (&of, &share) in &log.shares {
            append(of, Fact::Share(LevelShare { level: log.drive.level, share: Some(share) }));
        }
        log.started.iter().for_each(|(&of, started)| append(of, Fact::Started(*started)));
        log.done.iter().for_each(|(&of, done)| append(of, Fact::Done(done.clone())));
    }
    let most = data.nodes.values().map(|node| node.batches.len()).max().unwrap();
    for i in 0..most {
        for (&of, node) in &data.nodes {
            let Some((batch, stamps)) = node.batches.get(i).zip(node.batch_stamps.get(i)) else { continue };
            let stored = StoredBatch { batch: Some(batch.clone()), received_ref_ns: stamps.1 };
            // A repeat, as after a broken connection.
            if i == 0 {
                append(of, Fact::Batch(stored.clone()));
            }
            append(of, Fact::Batch(stored));
        }
    }
    journal.close().unwrap();
}

fn sample() -> RunData {
    let mut data = testrun::run(21, 3, &[1, 2, 4]);
    testrun::add_probe(&mut data);
    data
}

#[test]
fn batches_in_memory_and_in_the_journal_give_the_same_files() {
    let run = tempfile::tempdir().unwrap();
    journal_of(&sample(), run.path());
    let outputs = [open(run.path()).unwrap(), load(run.path()).unwrap()].map(|data| {
        let dir = tempfile::tempdir().unwrap();
        let merged = write_all(dir.path(), &data).unwrap();
        assert!(merged.levels.iter().all(|level| level.measured.completed > 0) && merged.stray == 0);
        dir
    });
    for name in FILES {
        let [one, other] = outputs.each_ref().map(|dir| std::fs::read(dir.path().join(name)).unwrap());
        assert!(one == other, "{name}");
        assert!(one.len() > 100, "{name} says something");
    }
    let (left, held) = (open(run.path()).unwrap(), load(run.path()).unwrap());
    for (of, node) in &held.nodes {
        assert!(left.nodes[of].batches.is_empty(), "no batch is in memory");
        assert_eq!(node.batches, sample().nodes[of].batches);
        assert_eq!(left.nodes[of].batch_count(), node.batch_count());
        assert_eq!(left.nodes[of].record_count(), node.record_count());
    }
}

#[test]
fn a_journal_that_cannot_be_read_again_leaves_no_files() {
    let run = tempfile::tempdir().unwrap();
    journal_of(&sample(), run.path());
    let path = run.path().join(FILE_NAME);
    for (cut, kind) in [(true, std::io::ErrorKind::UnexpectedEof), (false, std::io::ErrorKind::InvalidData)] {
        let data = open(run.path()).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let whole = bytes.clone();
        let at = bytes.len() - 50;
        if cut {
            bytes.truncate(at)
        } else {
            bytes[at] ^= 1
        }
        std::fs::write(&path, bytes).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let error = write_all(dir.path(), &data).map(drop).unwrap_err();
        assert_eq!(error.source.kind(), kind);
        assert!(!dir.path().join("requests.csv").exists() && !dir.path().join("summary.json").exists());
        std::fs::write(&path, whole).unwrap();
    }
}
