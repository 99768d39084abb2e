//! Which names speak of secrets. Agents redact what servers say by it, the coordinator what it stores.

const TELLING: [&str; 7] = ["auth", "key", "token", "secret", "cookie", "password", "credential"];

/// A header, query parameter or JSON key of this name may hold a secret.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    TELLING.iter().any(|word| name.contains(word))
}
