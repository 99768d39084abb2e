//! Words that are one token each, whatever stands beside them: of these, a prompt of N words has N tokens, and agents
//! can make as many as they like without a tokenizer at hand. That they are is not assumed but counted.

use tailcliff_proto::tokens::TokenCounter;
use tailcliff_proto::words::{Alphabet, mix};

/// Fewer would make prompts that are alike.
const FEWEST: usize = 32;
/// Words that each is tried beside.
const NEIGHBOURS: usize = 16;
/// Prompts that are counted as a whole at the end, and the longest of them.
const TRIALS: u64 = 24;
const LONGEST_TRIAL: u32 = 2_000;

/// Those of the common words that the tokenizer takes for one token each; `lengths` are tried for sure.
///
/// # Errors
/// In words, when there are too few, or when counting whole prompts shows that they do not add up.
pub fn one_token_words(counter: &TokenCounter, lengths: &[u32]) -> Result<Vec<String>, String> {
    let all = Alphabet::default();
    let is = |text: &str, tokens: u64| counter.count(text) == Some(tokens);
    let alone = |w: &&str| is(w, 1) && is(&format!("{w} {w}"), 2);
    let candidates: Vec<&str> = all.words().filter(alone).collect();
    let stays = |(at, word): (usize, &&str)| {
        let neighbour = |i: u64| candidates[mix(at as u64 ^ i << 16) as usize % candidates.len()];
        let row: Vec<&str> = (0..NEIGHBOURS as u64).flat_map(|i| [*word, neighbour(i)]).collect();
        is(&row.join(" "), row.len() as u64).then(|| (*word).to_owned())
    };
    let words: Vec<String> = candidates.iter().enumerate().filter_map(stays).collect();
    if words.len() < FEWEST {
        let n = words.len();
        return Err(format!(
            "it takes only {n} of 256 common English words for one token each, and at least {FEWEST} are needed: \
             give a dataset, or leave --tokenizer away and have lengths in words"
        ));
    }
    match adds_up(counter, &words, lengths) {
        Some((asked, counted)) => Err(format!(
            "a prompt of {asked} tokens has {counted}: its tokens depend on what stands around them; \
             give a dataset, or leave --tokenizer away and have lengths in words"
        )),
        None => Ok(words),
    }
}

/// The first prompt that has another number of tokens than asked for: (asked, counted).
fn adds_up(counter: &TokenCounter, words: &[String], lengths: &[u32]) -> Option<(u32, u64)> {
    let alphabet = Alphabet::new(words)?;
    let random = (0..TRIALS).map(|i| mix(i) as u32 % LONGEST_TRIAL + 1);
    let all = lengths.iter().copied().map(|n| n.min(1 << 16)).chain(random);
    all.zip(0..).find_map(|(asked, key)| {
        let counted = counter.count(&alphabet.text(mix(key), asked)).unwrap_or(0);
        (counted != u64::from(asked)).then_some((asked, counted))
    })
}

#[cfg(test)]
#[cfg(feature = "tokenizer")]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Knows some of the words whole, and takes the others for letters.
    fn letters_and(words: &[&str]) -> TokenCounter {
        let letters = ('a'..='z').chain('0'..='9').flat_map(|c| [c.to_string(), format!("##{c}")]);
        let vocab = letters.chain(words.iter().map(ToString::to_string)).chain(["[UNK]".to_owned()]);
        let vocab: serde_json::Map<_, _> = vocab.zip(0..).map(|(word, id)| (word, json!(id))).collect();
        let file = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": vocab}});
        TokenCounter::from_json(file.to_string().as_bytes()).unwrap()
    }

    fn half() -> (TokenCounter, Vec<String>) {
        let all = Alphabet::default();
        let known: Vec<&str> = all.words().step_by(2).collect();
        (letters_and(&known), known.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn words_of_several_tokens_are_left_out() {
        let (counter, known) = half();
        assert_eq!(counter.count("about"), Some(5));
        assert_eq!(one_token_words(&counter, &[128]).unwrap(), known);
    }

    #[test]
    fn a_tokenizer_of_letters_is_refused_with_what_to_do() {
        let error = one_token_words(&letters_and(&["able"]), &[128]).unwrap_err();
        assert!(error.contains("only 1 of 256") && error.contains("give a dataset"), "{error}");
    }

    #[test]
    fn words_that_do_not_add_up_are_found_out() {
        let (counter, mut words) = half();
        assert_eq!(adds_up(&counter, &words, &[7]), None);
        words.push("about".to_owned());
        let (asked, counted) = adds_up(&counter, &words, &[]).unwrap();
        assert!(counted > u64::from(asked));
    }

    static MADE: LazyLock<(TokenCounter, Alphabet)> = LazyLock::new(|| {
        let (counter, _) = half();
        let words = Alphabet::new(&one_token_words(&counter, &[]).unwrap()).unwrap();
        (counter, words)
    });

    proptest! {
        #[test]
        fn a_prompt_has_exactly_the_tokens_asked_for(key: u64, asked in 1u32..600) {
            let (counter, words) = &*MADE;
            prop_assert_eq!(counter.count(&words.text(key, asked)), Some(u64::from(asked)));
        }
    }
}
