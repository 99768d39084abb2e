//! Memory of a KV cache: GiB = 2 × layers × width × tokens × users × bytes / 1024³, where the width is `hidden` in the
//! classic formula and `kv_heads` × `head_dim` with grouped-query attention. On top of the weights it meets a card's
//! memory at some user: that is the first user over the line.

use super::GIB;

/// Users, tokens and widths are at most this; so that a product of five of them stays a finite number.
pub const MOST: u64 = 1_000_000_000_000;

/// What one token of one user costs.
#[derive(Clone, Debug, PartialEq)]
pub struct KvShape {
    /// Layers that keep every token.
    pub layers: u64,
    /// Layers that keep a sliding window of tokens only, and how many tokens that is.
    pub windowed: Option<(u64, u64)>,
    /// Values that a layer keeps of one token, keys and values together.
    pub values_per_token: u64,
    /// Bytes of one value: 2 for FP16 and BF16, 1 for FP8.
    pub bytes_per_value: f64,
}

impl KvShape {
    /// Keys and values as wide as the model: attention with as many KV heads as heads.
    pub fn classic(layers: u64, hidden: u64, bytes_per_value: f64) -> Self {
        Self { layers, windowed: None, values_per_token: hidden.saturating_mul(2), bytes_per_value }
    }

    /// Grouped-query attention: fewer KV heads than heads.
    pub fn grouped(layers: u64, kv_heads: u64, head_dim: u64, bytes_per_value: f64) -> Self {
        Self::classic(layers, kv_heads.saturating_mul(head_dim), bytes_per_value)
    }

    /// GiB of one user's cache of so many tokens.
    pub fn gib_per_user(&self, tokens: f64) -> f64 {
        let windowed =
            self.windowed.map_or(0.0, |(layers, window)| layers as f64 * tokens.min(window as f64));
        let token_layers = self.layers as f64 * tokens + windowed;
        token_layers * self.values_per_token as f64 * self.bytes_per_value / GIB
    }

    /// GiB of the caches of `users`, each of so many tokens.
    pub fn gib(&self, users: f64, tokens: f64) -> f64 {
        self.gib_per_user(tokens) * users
    }
}

/// At which user a line of memory is crossed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crossing {
    /// The weights alone do not fit.
    Weights,
    /// The first user with whom it no longer fits.
    User(u64),
    /// Not with as many users as can be counted.
    Never,
}

impl Crossing {
    /// The first user over the line; 0 where the weights alone are over it.
    pub fn user(self) -> Option<u64> {
        match self {
            Crossing::Weights => Some(0),
            Crossing::User(user) => Some(user),
            Crossing::Never => None,
        }
    }

    /// In words, of a line.
    pub fn words(self) -> String {
        match self {
            Crossing::Weights => "the weights alone do not fit".to_owned(),
            Crossing::User(1) => "not even one user fits".to_owned(),
            Crossing::User(user) => format!("{} users fit, user {user} is the first over it", user - 1),
            Crossing::Never => "no user is over it".to_owned(),
        }
    }
}

/// The first user over a line, all GiB: weights + users × `per_user` > line.
pub fn crossing(line_gib: f64, weights_gib: f64, per_user_gib: f64) -> Crossing {
    if weights_gib > line_gib {
        return Crossing::Weights;
    }
    let fit = ((line_gib - weights_gib) / per_user_gib).floor();
    if !fit.is_finite() || fit >= MOST as f64 {
        return Crossing::Never;
    }
    // The division may be off by one in its last bit: the sum decides.
    let is_over = |user: u64| weights_gib + user as f64 * per_user_gib > line_gib;
    let about = fit as u64;
    let first = (about.saturating_sub(1)..=about.saturating_add(2)).find(|&user| is_over(user));
    first.map_or(Crossing::Never, Crossing::User)
}
