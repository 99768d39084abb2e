//! Secrets: values that no output may show, and which names speak of them. Agents redact what servers say by the names,
//! probes and the coordinator what they send on and store.

mod shown;

use std::fmt;

use subtle::ConstantTimeEq;

pub use shown::{redacted_script, redacted_value, redacted_words};

/// Stands for a secret.
pub const REDACTED: &str = "(redacted)";

const TELLING: [&str; 7] = ["auth", "key", "token", "secret", "cookie", "password", "credential"];

/// A header, query parameter or JSON key of this name may hold a secret.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    TELLING.iter().any(|word| name.contains(word))
}

/// A value that is never printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Keeps `value`.
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// A random one, for nodes of this very process.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 32];
        let filled = rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes);
        filled.map_err(|_| std::io::Error::other("the system gives no random bytes"))?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// The value itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares without telling by its duration how much is equal; the length is no secret.
    pub fn is(&self, other: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(other).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn a_secret_is_compared_whole_and_never_printed() {
        let secret = Secret::new("hunter2".to_owned());
        assert!(secret.is(b"hunter2"));
        for other in ["hunter", "hunter22", "hunter3", ""] {
            assert!(!secret.is(other.as_bytes()), "{other}");
        }
        assert!(!format!("{secret:?}").contains("hunter"));
    }
}
