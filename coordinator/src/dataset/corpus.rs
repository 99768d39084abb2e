//! Entries and a tokenizer as agents are sent them: cut into messages that never keep a heartbeat waiting for long.

use prost::Message;
use tailcliff_proto::v1;

/// Bytes of a part, about; an entry that is larger has one of its own.
const PART: usize = 256 << 10;

/// What all agents are told before the preflight.
#[derive(Debug)]
pub struct Corpus {
    /// Names it on the wire; from what it holds.
    pub id: u64,
    /// In order, at least one.
    pub parts: Vec<v1::CorpusPart>,
}

impl Corpus {
    /// Cuts entries and the bytes of a `tokenizer.json`, either of which may be none.
    pub fn cut(entries: Vec<v1::Entry>, tokenizer_json: &[u8]) -> Self {
        let mut parts = vec![v1::CorpusPart::default()];
        let mut size = 0;
        for entry in entries {
            let bytes = entry.encoded_len() + 4;
            if size > 0 && size + bytes > PART {
                parts.push(v1::CorpusPart::default());
                size = 0;
            }
            size += bytes;
            if let Some(part) = parts.last_mut() {
                part.entries.push(entry);
            }
        }
        let tokenizer = tokenizer_json.chunks(PART);
        parts.extend(
            tokenizer.map(|bytes| v1::CorpusPart { tokenizer_json: bytes.to_vec(), ..Default::default() }),
        );
        let id = name(&parts);
        let count = parts.len() as u32;
        for (part, number) in parts.iter_mut().zip(0..) {
            (part.corpus_id, part.number, part.count) = (id, number, count);
        }
        Self { id, parts }
    }
}

/// Two checksums of different beginnings; never 0, which names nothing.
fn name(parts: &[v1::CorpusPart]) -> u64 {
    let (mut high, mut low) = (0, u32::MAX);
    for part in parts {
        let bytes = part.encode_to_vec();
        high = crc32c::crc32c_append(high, &bytes);
        low = crc32c::crc32c_append(low ^ high, &bytes);
    }
    (u64::from(high) << 32 | u64::from(low)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> v1::Entry {
        let content = Some(v1::turn::Content::User(text.to_owned()));
        v1::Entry { turns: vec![v1::Turn { content, ..Default::default() }], ..Default::default() }
    }

    #[test]
    fn parts_hold_everything_in_order_and_are_small() {
        let entries: Vec<_> = (0..500)
            .map(|i| entry(&"x".repeat(i * 13 % 4_000)))
            .chain([entry(&"y".repeat(2 * PART))])
            .collect();
        let tokenizer: Vec<u8> = (0..PART + 7).map(|i| i as u8).collect();
        let corpus = Corpus::cut(entries.clone(), &tokenizer);
        let back: Vec<_> = corpus.parts.iter().flat_map(|part| part.entries.clone()).collect();
        assert_eq!(back, entries);
        assert_eq!(
            corpus.parts.iter().flat_map(|part| part.tokenizer_json.clone()).collect::<Vec<_>>(),
            tokenizer
        );
        let count = corpus.parts.len() as u32;
        for (part, number) in corpus.parts.iter().zip(0..) {
            assert_eq!((part.corpus_id, part.number, part.count), (corpus.id, number, count));
            assert!(part.encoded_len() < PART + 100 || part.entries.len() == 1, "{}", part.encoded_len());
        }
        assert!(count > 5);
        assert_ne!(corpus.id, Corpus::cut(entries, &tokenizer[1..]).id);
    }

    #[test]
    fn nothing_is_one_empty_part() {
        assert_eq!(Corpus::cut(Vec::new(), b"").parts.len(), 1);
    }
}
