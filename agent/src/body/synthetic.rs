//! Synthetic prompts: lengths, shared beginnings and text, all drawn from a request's key.

use tailcliff_proto::words::{Alphabet, mix};
use tailcliff_proto::{MAX_INPUT_WORDS, v1};

use super::BodyError;

/// Turns of one session at most.
const MOST_TURNS: u32 = 1_000;
/// Bytes of a word and its space, about.
const WORD_BYTES: u64 = 7;

/// Salts: what one key is used for must not repeat another's text.
const INPUT: u64 = 1;
const OUTPUT: u64 = 2;
const GROUP: u64 = 3;
const PREFIX: u64 = 4;
const ANSWER: u64 = 5;
const BLOCK: u64 = 6;

/// How synthetic text is made.
#[derive(Debug)]
pub(super) struct Synthetic {
    alphabet: Alphabet,
    seed: u64,
    words: u32,
    /// Characters of a prompt in place of words; 0 for words.
    chars: u32,
    ratio: f64,
    prefix_words: u32,
    prefixes: u32,
    turns: u32,
    delay_ns: i64,
}

impl Synthetic {
    pub(super) fn new(workload: &v1::Workload) -> Result<Self, BodyError> {
        let asked = workload.synthetic.clone().unwrap_or_default();
        let alphabet =
            Alphabet::new(&asked.words).ok_or(BodyError::Synthetic("a word is not a plain word"))?;
        if !(0.0..1.0).contains(&asked.range_ratio) {
            return Err(BodyError::Synthetic("the range ratio is not between 0 and 1"));
        }
        if asked.turns > MOST_TURNS || asked.turn_delay_ns < 0 {
            return Err(BodyError::Synthetic("too many turns, or a negative delay between them"));
        }
        let turns = asked.turns.max(1);
        let varies = asked.range_ratio > 0.0 || asked.prefix_words > 0 || turns > 1;
        if workload.input_chars > 0 && varies {
            return Err(BodyError::Synthetic(
                "a length in characters goes with single prompts of one length",
            ));
        }
        let longest = (f64::from(workload.input_words) * (1.0 + asked.range_ratio)).ceil() as u64;
        let all = u64::from(asked.prefix_words) + longest.saturating_mul(u64::from(turns));
        if all > u64::from(MAX_INPUT_WORDS) {
            return Err(BodyError::TooManyWords(all));
        }
        Ok(Self {
            alphabet,
            seed: workload.seed,
            words: workload.input_words,
            chars: workload.input_chars,
            ratio: asked.range_ratio,
            prefix_words: asked.prefix_words,
            prefixes: asked.prefixes.max(1),
            turns,
            delay_ns: asked.turn_delay_ns,
        })
    }

    pub(super) fn turns(&self) -> u32 {
        self.turns
    }

    pub(super) fn delay_ns(&self) -> i64 {
        self.delay_ns
    }

    /// Words, or characters where those are asked for, that a turn of this key has.
    pub(super) fn input_len(&self, key: u64, turn: u32) -> u32 {
        if self.chars > 0 {
            return self.chars;
        }
        let shared = if turn == 0 { self.prefix_words } else { 0 };
        shared + drawn(self.words, self.ratio, mix(key ^ INPUT))
    }

    /// Tokens that a turn of this key asks for.
    pub(super) fn output_tokens(&self, key: u64, asked: u32) -> u32 {
        if asked == 0 { 0 } else { drawn(asked, self.ratio, mix(key ^ OUTPUT)) }
    }

    /// Writes a turn's prompt: the first begins as its group does. `group` is the session's key.
    pub(super) fn write(&self, out: &mut Vec<u8>, group: u64, key: u64, turn: u32) {
        if self.chars > 0 {
            return self.alphabet.write_chars(out, key, self.chars);
        }
        if turn == 0 && self.prefix_words > 0 {
            let group = mix(group ^ GROUP) % u64::from(self.prefixes);
            self.alphabet.write(out, mix(mix(self.seed ^ PREFIX) ^ group), self.prefix_words);
            out.push(b' ');
        }
        self.alphabet.write(out, key, drawn(self.words, self.ratio, mix(key ^ INPUT)));
    }

    /// Stands in for the answer of a turn where the server's is not known.
    pub(super) fn answer(&self, key: u64, words: u32) -> String {
        self.alphabet.text(mix(key ^ ANSWER), words.max(1))
    }

    /// Writes the blocks that ids name, and text of this key's own where they end early.
    pub(super) fn write_blocks(&self, out: &mut Vec<u8>, blocks: &v1::Blocks, key: u64) {
        let mut left = blocks.words;
        for &id in &blocks.ids {
            let words = blocks.block_words.min(left);
            if words == 0 {
                break;
            }
            self.alphabet.write(out, mix(mix(self.seed ^ BLOCK) ^ mix(id)), words);
            left -= words;
            if left > 0 {
                out.push(b' ');
            }
        }
        self.alphabet.write(out, key, left);
    }

    /// Bytes of the longest body, about.
    pub(super) fn bytes(&self, max_tokens: u32) -> u64 {
        let each = (f64::from(self.words) * (1.0 + self.ratio)).ceil() as u64;
        let answers = u64::from(self.turns - 1) * u64::from(max_tokens);
        (u64::from(self.prefix_words) + each * u64::from(self.turns) + answers) * WORD_BYTES
            + u64::from(self.chars)
    }
}

/// Evenly from `(1 - ratio) * length` to `(1 + ratio) * length`, both included, at least 1.
fn drawn(length: u32, ratio: f64, key: u64) -> u32 {
    let (low, high) = range(length, ratio);
    let width = u64::from(high - low) + 1;
    // The upper bits of a product are even enough: widths are far below 2⁶⁴.
    low + ((u128::from(key) * u128::from(width)) >> 64) as u32
}

fn range(length: u32, ratio: f64) -> (u32, u32) {
    let length = f64::from(length);
    let (low, high) = (length * (1.0 - ratio), length * (1.0 + ratio));
    ((low.floor() as u32).max(1), (high.ceil() as u32).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_drawn_evenly_and_both_ends_are_reached() {
        let mut counts = [0u32; 21];
        for key in 0..21_000 {
            counts[drawn(20, 0.5, mix(key)) as usize - 10] += 1;
        }
        assert!(counts.iter().all(|&n| (800..1_200).contains(&n)), "{counts:?}");
        assert!((0..99).all(|key| drawn(7, 0.0, mix(key)) == 7));
        assert!((0..99).all(|key| (1..=2).contains(&drawn(1, 0.9, mix(key)))));
        assert_eq!((drawn(u32::MAX, 0.0, u64::MAX), drawn(0, 0.5, 3)), (u32::MAX, 1));
    }
}
