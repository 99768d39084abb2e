//! Cost per concurrent user: a card's price over the users that it serves at once; and with a price per hour, per user
//! and hour and per million output tokens.

/// What hardware costs and how many users it serves at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Card {
    /// Price, USD.
    pub price_usd: f64,
    /// Users at once.
    pub users: f64,
}

impl Card {
    /// USD per concurrent user; `None` when it serves none.
    pub fn usd_per_user(&self) -> Option<f64> {
        per(self.price_usd, self.users)
    }
}

/// A price over a count; `None` when that is none, or no number comes out.
pub fn per(price_usd: f64, count: f64) -> Option<f64> {
    Some(price_usd / count).filter(|usd| count > 0.0 && usd.is_finite())
}

/// USD per million output tokens, of a price per hour and tokens per second.
pub fn usd_per_million_tokens(usd_per_hour: f64, tokens_per_s: f64) -> Option<f64> {
    per(usd_per_hour * 1e6, tokens_per_s * 3_600.0)
}
