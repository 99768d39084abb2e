//! Synthetic text: words drawn from a key, so that it can be made again anywhere, and so that two keys part within eight
//! words. Coordinator and agents share it, because the one checks with a tokenizer what the others will send.

/// Words of an alphabet at most: one a byte.
const MOST: usize = 256;
/// Longest word, bytes.
const LONGEST: usize = 64;

/// What synthetic text is made of.
#[derive(Clone, Debug)]
pub struct Alphabet(Vec<Box<str>>);

impl Alphabet {
    /// Of these words, or of the built-in ones when there are none. `None` when they are more than 256, or a word is
    /// more than plain letters and digits: such text goes into JSON as it is.
    pub fn new(words: &[String]) -> Option<Self> {
        if words.is_empty() {
            return Some(Self::default());
        }
        let plain =
            |w: &String| !w.is_empty() && w.len() <= LONGEST && w.bytes().all(|b| b.is_ascii_alphanumeric());
        let fine = words.len() <= MOST && words.iter().all(plain);
        fine.then(|| Self(words.iter().map(|w| w.as_str().into()).collect()))
    }

    /// The words.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|word| &**word)
    }

    /// Appends `count` words with spaces between them. The first eight spell the key, a byte each; the others are drawn
    /// from it.
    pub fn write(&self, out: &mut Vec<u8>, key: u64, count: u32) {
        let mut bits = key;
        for i in 0..count {
            if i > 0 {
                out.push(b' ');
            }
            if i > 0 && i % 8 == 0 {
                bits = mix(key ^ u64::from(i));
            }
            out.extend_from_slice(self.0[(bits & 0xff) as usize % self.0.len()].as_bytes());
            bits >>= 8;
        }
    }

    /// Appends exactly `chars` characters of the same: the last word is cut where they end, and is never a space alone.
    pub fn write_chars(&self, out: &mut Vec<u8>, key: u64, chars: u32) {
        let (start, chars) = (out.len(), chars as usize);
        let shortest = self.0.iter().map(|word| word.len()).min().unwrap_or(1) + 1;
        self.write(out, key, u32::try_from(chars / shortest + 1).unwrap_or(u32::MAX));
        // Words are plain letters and digits, a byte each.
        out.truncate(start + chars);
        if let Some(last) = out[start..].last_mut().filter(|last| **last == b' ') {
            *last = b'a';
        }
    }

    /// The same as text of its own.
    pub fn text(&self, key: u64, count: u32) -> String {
        let mut out = Vec::new();
        self.write(&mut out, key, count);
        String::from_utf8_lossy(&out).into_owned()
    }
}

impl Default for Alphabet {
    fn default() -> Self {
        Self(WORDS.iter().map(|&word| word.into()).collect())
    }
}

/// The finaliser of SplitMix64: a bijection of 64 bits that looks random.
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// One per byte value: common English words, most of them one token in every vocabulary.
#[rustfmt::skip]
const WORDS: [&str; 256] = [
    "able", "about", "above", "across", "after", "again", "against", "air", "all", "almost", "alone", "along",
    "already", "also", "always", "among", "animal", "answer", "any", "appear", "apple", "area", "arm", "around",
    "art", "ask", "autumn", "away", "baby", "back", "ball", "bank", "base", "bear", "beat", "beauty",
    "bed", "before", "begin", "behind", "believe", "bell", "below", "best", "better", "between", "big", "bird",
    "black", "blood", "blow", "blue", "board", "boat", "body", "bone", "book", "born", "both", "bottom",
    "bowl", "box", "boy", "branch", "bread", "break", "bridge", "bright", "bring", "brother", "brown", "build",
    "burn", "busy", "butter", "buy", "cake", "call", "camp", "can", "car", "card", "care", "carry",
    "case", "cat", "catch", "cause", "cell", "center", "chair", "chance", "change", "chart", "check", "child",
    "choose", "church", "circle", "city", "class", "clean", "clear", "climb", "clock", "close", "cloth", "cloud",
    "coast", "coat", "cold", "color", "come", "common", "cook", "cool", "copper", "copy", "corn", "corner",
    "cost", "cotton", "count", "country", "course", "cover", "cow", "create", "cross", "crowd", "cry", "current",
    "cut", "dance", "dark", "day", "deal", "dear", "deep", "desert", "desk", "dinner", "direct", "dish",
    "doctor", "dog", "dollar", "door", "double", "down", "draw", "dream", "dress", "drink", "drive", "drop",
    "dry", "duck", "during", "dust", "each", "ear", "early", "earth", "east", "easy", "edge", "effect",
    "egg", "eight", "either", "electric", "else", "end", "energy", "engine", "enough", "enter", "equal", "even",
    "evening", "ever", "every", "exact", "example", "eye", "face", "fact", "fair", "fall", "family", "famous",
    "far", "farm", "fast", "father", "fear", "feed", "feel", "few", "field", "fight", "figure", "fill",
    "final", "find", "fine", "finger", "finish", "fire", "first", "fish", "fit", "five", "flat", "floor",
    "flow", "flower", "fly", "follow", "food", "foot", "force", "forest", "form", "forward", "four", "free",
    "fresh", "friend", "front", "fruit", "full", "game", "garden", "gas", "gate", "gather", "gave", "gentle",
    "girl", "give", "glad", "glass", "goat", "gold", "good", "grand", "grass", "gray", "great", "green",
    "ground", "group", "grow", "guess",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn words_are_counted_and_follow_from_the_key() {
        let alphabet = Alphabet::default();
        assert_eq!(alphabet.words().collect::<HashSet<_>>().len(), MOST);
        for count in [0, 1, 7, 8, 9, 4096] {
            let text = alphabet.text(7, count);
            assert_eq!(text.split_whitespace().count(), count as usize);
            assert_eq!(text, alphabet.text(7, count));
        }
        assert_ne!(alphabet.text(7, 8), alphabet.text(8, 8));
        let long = alphabet.text(7, 4096);
        let words: Vec<&str> = long.split(' ').collect();
        assert_eq!(words.chunks(8).collect::<HashSet<_>>().len(), 512, "long text does not repeat within");
    }

    #[test]
    fn characters_are_exact_and_begin_as_the_words_do() {
        let alphabet = Alphabet::default();
        for (key, chars) in [(7, 1), (7, 5), (8, 200), (9, 800), (10, 2_000), (11, 20_001)] {
            let mut out = vec![b'"'];
            alphabet.write_chars(&mut out, key, chars);
            assert_eq!(out.len(), 1 + chars as usize);
            let text = String::from_utf8(out).unwrap();
            assert!(!text.ends_with(' ') && !text.contains("  "), "{text}");
            let whole = text.len().saturating_sub(12).max(1);
            assert!(alphabet.text(key, chars).starts_with(&text[1..whole]), "{text}");
        }
    }

    #[test]
    fn only_plain_words_make_an_alphabet() {
        let alphabet =
            |words: &[&str]| Alphabet::new(&words.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(alphabet(&["a", "b"]).unwrap().text(0x0100, 3), "a b a");
        for bad in [&["a b"][..], &["\""], &[""], &["é"], &["x"; 257]] {
            assert!(alphabet(bad).is_none(), "{bad:?}");
        }
    }
}
