//! Command lines and shell text as they may be shown. What a name, a flag or its own look says to be a secret is left out, at
//! any depth of quotes; in doubt too much is, since a report is passed on.

use super::{REDACTED, is_secret};

/// Quotes within quotes that are looked into; what lies deeper is left out.
const DEEPEST: usize = 8;
/// What separates a shell's words beside blanks.
const SIGNS: [char; 5] = [';', '|', '&', '(', ')'];
/// What a name in a pair begins after.
const DELIMITERS: [char; 21] = [
    '=', ':', ',', ';', '&', '|', '?', '#', '/', '@', '$', '<', '>', '{', '}', '[', ']', '(', ')', '"', '\'',
];
/// How servers' and hubs' keys begin.
const KEYS: [&str; 7] = ["sk-", "hf_", "ghp_", "github_pat_", "glpat-", "nvapi-", "gsk_"];
const SHELLS: [&str; 6] = ["sh", "bash", "dash", "zsh", "ksh", "ash"];

/// Words of a command line, without its secrets.
pub fn redacted_words(words: &[String]) -> Vec<String> {
    let mut line = Line::default();
    let show = |word: &String| {
        line.pass(" ");
        line.shown(word)
    };
    words.iter().map(show).collect()
}

/// The value of a variable.
pub fn redacted_value(name: &str, value: &str) -> String {
    if hides(name, value) { REDACTED.to_owned() } else { Line::default().shown(value) }
}

/// A shell's text. A comment is left out: an apostrophe in it is no quote.
pub fn redacted_script(text: &str) -> String {
    script(text, 0)
}

fn script(text: &str, depth: usize) -> String {
    let mut line = Line { depth, ..Line::default() };
    let show = |piece: Piece| match piece {
        Piece::Sign(sign) => {
            line.pass(&sign);
            sign
        }
        Piece::Word(raw) => {
            let plain = unquoted(&raw);
            let shown = line.shown(&plain);
            if shown == plain { raw } else { quoted_as(&raw, shown) }
        }
    };
    pieces(text).into_iter().map(show).collect()
}

/// Of a shell's text.
enum Piece {
    /// With its quotes: what they hold together is one.
    Word(String),
    /// Between words: a blank, or a sign.
    Sign(String),
}

fn pieces(text: &str) -> Vec<Piece> {
    let (mut all, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let sign = match (quote, c) {
            (None, '\\') if chars.peek().is_some_and(|c| ['\n', '\r'].contains(c)) => {
                Some([Some(c), chars.next()].into_iter().flatten().collect())
            }
            (None | Some('"'), '\\') => {
                word.push(c);
                word.extend(chars.next());
                continue;
            }
            (None, '#') if word.is_empty() => {
                while chars.next_if(|c| *c != '\n').is_some() {}
                Some("# …".to_owned())
            }
            (None, c) if c.is_whitespace() || SIGNS.contains(&c) => Some(c.to_string()),
            _ => None,
        };
        if let Some(sign) = sign {
            all.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()).map(Piece::Word));
            all.push(Piece::Sign(sign));
            continue;
        }
        quote = match quote {
            None if ['"', '\''].contains(&c) => Some(c),
            Some(q) if q == c => None,
            other => other,
        };
        word.push(c);
    }
    all.extend(Some(word).filter(|word| !word.is_empty()).map(Piece::Word));
    all
}

/// A word as the program gets it.
fn unquoted(raw: &str) -> String {
    let (mut plain, mut quote) = (String::new(), None);
    let mut chars = raw.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '\\') => plain.extend(chars.next()),
            (Some('"'), '\\') => {
                let escaped = chars.next_if(|c| ['"', '\\', '$', '`', '\n'].contains(c));
                plain.push(escaped.unwrap_or(c));
            }
            (None, '"' | '\'') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            _ => plain.push(c),
        }
    }
    plain
}

/// In quotes, where the word was.
fn quoted_as(raw: &str, text: String) -> String {
    match raw.chars().next() {
        Some('\'') => format!("'{}'", text.replace('\'', "'\\''")),
        Some('"') => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        _ if text.contains(char::is_whitespace) => format!("'{}'", text.replace('\'', "'\\''")),
        _ => text,
    }
}

/// What the words before say of the next one.
#[derive(Default)]
struct Line {
    depth: usize,
    /// The word before.
    before: String,
    /// A shell was named: the word after its `-c` is its text.
    has_shell: bool,
    /// The next word is the value of this.
    awaited: Option<String>,
    /// A flag may take several keys.
    hides: bool,
    /// No blank since a secret: what is not quoted as a shell needs it may well go on.
    is_glued: bool,
    /// A sign since the last word: another command.
    has_ended: bool,
}

impl Line {
    /// Between two words.
    fn pass(&mut self, sign: &str) {
        if [";", "|", "&"].contains(&sign) {
            self.has_ended = true;
        } else if !SIGNS.iter().any(|c| sign.starts_with(*c)) {
            self.is_glued = false;
            self.hides &= sign != "\n";
        }
    }

    /// The next word, as it may be shown.
    fn shown(&mut self, word: &str) -> String {
        if std::mem::take(&mut self.has_ended) && !self.is_glued {
            (self.hides, self.has_shell) = (false, false);
        }
        let before = std::mem::replace(&mut self.before, word.to_owned());
        let is_value = self.awaited.take().is_some_and(|name| hides(&name, word));
        if is_value || self.is_glued || (self.hides && !word.starts_with('-')) {
            (self.hides, self.is_glued) = (self.hides || is_value, true);
            // The flag before may have taken no value.
            self.awaited = awaited(&before, word);
            return REDACTED.to_owned();
        }
        self.hides = false;
        self.awaited = awaited(&before, word);
        let shown = self.without_secrets(&before, word);
        self.has_shell |= SHELLS.contains(&file_name(word));
        self.is_glued = shown != word;
        shown
    }

    fn without_secrets(&self, before: &str, word: &str) -> String {
        let Some(blank) = word.find(char::is_whitespace) else {
            return without_keys(&without_values(&without_users(&without_login(before, word))));
        };
        let is_text = self.has_shell && before.starts_with('-') && before.ends_with('c');
        // Of a header, and of a variable, all that follows is the value.
        match secret_pair(word, 0, blank).filter(|_| !is_text) {
            Some(pair) => {
                let gap = &word[pair.value..];
                let gap = &gap[..gap.len() - gap.trim_start().len()];
                format!("{}{gap}{REDACTED}", without_users(&word[..pair.value]))
            }
            None if self.depth >= DEEPEST => REDACTED.to_owned(),
            None => script(word, self.depth + 1),
        }
    }
}

/// The name whose value the word after this one is.
fn awaited(before: &str, word: &str) -> Option<String> {
    if word.contains(char::is_whitespace) {
        return None;
    }
    let is_flag = word.starts_with('-') && !word.contains(['=', ':']);
    let name = match word {
        "=" | ":" | ":=" | "=>" => before,
        "-p" if file_name(before) == "sshpass" => "password",
        _ if word.trim_matches(['"', '\'']).eq_ignore_ascii_case("bearer") => "bearer",
        _ if word.ends_with(':') => name_of(word.trim_end_matches(':')).1,
        _ if is_flag => word,
        _ => return None,
    };
    speaks(name).then(|| name.to_owned())
}

fn file_name(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// A name speaks of a secret; a tokenizer is none.
fn speaks(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace("tokenizer", "");
    is_secret(&name) || ["passwd", "passphrase", "bearer"].iter().any(|word| name.contains(word))
}

/// `--max-num-batched-tokens 4096` is no secret, `--password 123456` is.
fn hides(name: &str, value: &str) -> bool {
    let bare = value.trim_end_matches([',', ']', '}']).trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G']);
    let is_number = || bare.parse::<f64>().is_ok();
    speaks(name) && !["true", "false", ""].contains(&value) && !(is_count(name) && is_number())
}

fn is_count(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let parts: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let any = |of: &[&str]| parts.iter().any(|part| of.contains(part));
    let tokens = parts.iter().any(|part| part.ends_with("tokens"));
    any(&["num", "len", "length", "size", "port"]) || tokens && !any(&["api", "auth", "access", "secret"])
}

/// A value within a word that is left out.
struct Pair {
    /// Where it begins, …
    value: usize,
    /// … and ends.
    until: usize,
}

/// The first NAME=VALUE or NAME:VALUE whose name speaks of a secret, with its sign between two places.
fn secret_pair(word: &str, from: usize, to: usize) -> Option<Pair> {
    let signs = word[from..to].match_indices(['=', ':']).map(|(at, sign)| (from + at, sign));
    for (at, sign) in signs {
        let (begin, name) = name_of(&word[..at]);
        let (head, value) = (&word[..begin], &word[at + 1..]);
        // A scheme, and a host before its port.
        if sign == ":" && (value.starts_with("//") || head.ends_with("//") || head.ends_with('@')) {
            continue;
        }
        let bare = value.trim_start_matches([' ', '"', '\'', '\\']);
        let is_blank = |c: char| c.is_whitespace() || [',', '}', ']', '&', ';', '"', '\'', '\\'].contains(&c);
        if !speaks(name) || !hides(name, bare.split(is_blank).next().unwrap_or(bare)) && !is_odd(bare) {
            continue;
        }
        // In a query the others follow; elsewhere nobody says where a secret ends.
        let end = if head.ends_with(['?', '&']) { value.find(['&', '#']) } else { None };
        return Some(Pair { value: at + 1, until: at + 1 + end.unwrap_or(value.len()) });
    }
    None
}

/// Begins with what ends a value, so that it is none of the plain ones.
fn is_odd(value: &str) -> bool {
    value.starts_with([',', ';', '&', ']', '}']) && value.len() > 1
}

/// The name that ends a text, and where it begins.
fn name_of(text: &str) -> (usize, &str) {
    let text = text.trim_end_matches(['"', '\'', ']', '\\', ' ']);
    let is_before = |c: char| c.is_whitespace() || DELIMITERS.contains(&c);
    let begin = text.char_indices().rev().find(|(_, c)| is_before(*c)).map_or(0, |(at, c)| at + c.len_utf8());
    (begin, &text[begin..])
}

fn without_values(word: &str) -> String {
    let (mut shown, mut from) = (String::new(), 0);
    while let Some(pair) = secret_pair(word, from, word.len()) {
        shown.push_str(&word[from..pair.value]);
        shown.push_str(REDACTED);
        from = pair.until;
    }
    shown + &word[from..]
}

/// `scheme://user:password@host` without the middle, wherever it stands.
fn without_users(word: &str) -> String {
    let mut parts = word.split("://");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for rest in parts {
        let authority = rest.split('/').next().unwrap_or(rest);
        shown.push_str("://");
        match authority.rfind('@') {
            Some(at) => shown.extend([REDACTED, &rest[at..]]),
            None => shown.push_str(rest),
        }
    }
    shown
}

/// `curl -u me:secret`, `sshpass -psecret`; `docker run --user 1000:1000` has none.
fn without_login(before: &str, word: &str) -> String {
    if file_name(before) == "sshpass" && word.starts_with("-p") && word.len() > 2 {
        return format!("-p{REDACTED}");
    }
    match word.split_once(':').filter(|_| ["-u", "--user", "--proxy-user"].contains(&before)) {
        Some((user, secret)) if user.parse::<u32>().is_err() || secret.parse::<u32>().is_err() => {
            format!("{user}:{REDACTED}")
        }
        _ => word.to_owned(),
    }
}

/// Without what looks like a key, whatever its name.
fn without_keys(word: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let (mut shown, mut rest) = (String::new(), word);
    while let Some(begin) = rest.find(is_part) {
        let (head, tail) = rest.split_at(begin);
        let (part, after) = tail.split_at(tail.find(|c| !is_part(c)).unwrap_or(tail.len()));
        let is_key = part.len() > 16 && KEYS.iter().any(|start| part.starts_with(start));
        shown.extend([head, if is_key { REDACTED } else { part }]);
        rest = after;
    }
    shown + rest
}

#[cfg(test)]
#[path = "shown_tests.rs"]
mod tests;
