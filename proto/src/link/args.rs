//! The flags by which a person says how nodes and coordinator find and trust each other: the same at every end.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Route;
use super::tls::{Tls, TlsError};
use crate::secret::Secret;

/// Names the variable that holds the join token where no file does.
pub const TOKEN_VARIABLE: &str = "TAILCLIFF_TOKEN";
/// Shortest token: one that can be guessed keeps nobody out.
const MIN_TOKEN: usize = 16;
const MAX_TOKEN: usize = 4096;
const HEADING: &str = "Security";

/// How this end is secured.
#[derive(Clone, Debug, Default, Args)]
pub struct LinkArgs {
    /// Directory with this end's tls.crt, tls.key and ca.crt, as `tailcliff certs` makes them: every connection between
    /// coordinator and nodes is encrypted then, and takes only certificates of that CA
    #[arg(long, value_name = "DIR", help_heading = HEADING, conflicts_with_all = ["tls_cert", "tls_key", "tls_ca"])]
    pub tls_dir: Option<PathBuf>,
    /// This end's certificate, PEM, instead of --tls-dir
    #[arg(long, value_name = "FILE", help_heading = HEADING, requires_all = ["tls_key", "tls_ca"])]
    pub tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", help_heading = HEADING, requires_all = ["tls_cert", "tls_ca"])]
    pub tls_key: Option<PathBuf>,
    /// CA that the other end's certificate has to be of, PEM
    #[arg(long, value_name = "FILE", help_heading = HEADING, requires_all = ["tls_cert", "tls_key"])]
    pub tls_ca: Option<PathBuf>,
    /// File with the join token, the same at both ends; without it TAILCLIFF_TOKEN is used when set
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    pub token_file: Option<PathBuf>,
    /// Go without TLS beyond loopback: whoever is on the way can read, change and send everything
    #[arg(long, help_heading = HEADING)]
    pub allow_unauthenticated: bool,
}

/// Why these flags cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum LinkArgsError {
    /// The files of TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address is none.
    #[error("bad --coordinator {0:?}: give HOST:PORT, such as 10.0.0.7:7100")]
    Address(String),
    /// The token cannot be had.
    #[error("failed to read the token from {from}: {reason}")]
    Token {
        /// The file or the variable.
        from: String,
        /// What is wrong; never the token.
        reason: String,
    },
    /// What is said there would be read, and could be changed, by whoever is on the way.
    #[error(
        "refusing to join {0} without TLS: give --tls-dir, or --allow-unauthenticated where nobody else is on the network"
    )]
    InTheClear(String),
}

impl LinkArgs {
    /// These flags, with what they leave open taken from `before`; its TLS goes as a whole or not at all.
    #[must_use]
    pub fn over(self, before: Self) -> Self {
        let has_tls = self.tls_dir.is_some() || self.tls_cert.is_some();
        let token_file = self.token_file.clone().or_else(|| before.token_file.clone());
        let allow_unauthenticated = self.allow_unauthenticated || before.allow_unauthenticated;
        let tls = if has_tls { self } else { before };
        Self { token_file, allow_unauthenticated, ..tls }
    }

    /// This end's TLS, if any.
    ///
    /// # Errors
    /// When the files cannot be used.
    pub fn tls(&self) -> Result<Option<Tls>, TlsError> {
        match (&self.tls_dir, &self.tls_cert, &self.tls_key, &self.tls_ca) {
            (Some(dir), ..) => Tls::load_dir(dir).map(Some),
            (None, Some(cert), Some(key), Some(ca)) => Tls::load(cert, key, ca).map(Some),
            _ => Ok(None),
        }
    }

    /// The join token, if any: of the file, else of `variable`, the value of [`TOKEN_VARIABLE`].
    ///
    /// # Errors
    /// When it cannot be read, or is no token.
    pub fn token(&self, variable: Option<String>) -> Result<Option<Secret>, LinkArgsError> {
        let (from, text) = match (&self.token_file, variable) {
            (Some(path), _) => (path.display().to_string(), read(path)?),
            (None, Some(text)) if !text.is_empty() => (TOKEN_VARIABLE.to_owned(), text),
            _ => return Ok(None),
        };
        let token = text.trim();
        let reason = match token {
            _ if !(MIN_TOKEN..=MAX_TOKEN).contains(&token.len()) => {
                format!(
                    "it has {} characters: give at least {MIN_TOKEN}, such as `openssl rand -hex 32`",
                    token.len()
                )
            }
            _ if !token.bytes().all(|b| b.is_ascii_graphic()) => {
                "it holds characters that cannot be sent: try `openssl rand -hex 32`".to_owned()
            }
            _ => return Ok(Some(Secret::new(token.to_owned()))),
        };
        Err(LinkArgsError::Token { from, reason })
    }

    /// The way to the coordinator at `address`, with the token of the file or of the environment.
    ///
    /// # Errors
    /// When the address is none, files or token cannot be used, or the token would go in the clear over a network.
    pub fn route(&self, address: String) -> Result<Route, LinkArgsError> {
        if super::endpoint(&address).is_err() {
            return Err(LinkArgsError::Address(address));
        }
        let (tls, token) = (self.tls()?, self.token(std::env::var(TOKEN_VARIABLE).ok())?);
        let route = Route::new(address).with_tls(tls).with_token(token);
        // Whoever is on the way could read the token, and give this node orders of its own.
        if route.tls.is_none() && !route.is_loopback() && !self.allow_unauthenticated {
            return Err(LinkArgsError::InTheClear(route.address));
        }
        Ok(route)
    }
}

fn read(path: &Path) -> Result<String, LinkArgsError> {
    let refuse = |reason: String| LinkArgsError::Token { from: path.display().to_string(), reason };
    let facts = std::fs::metadata(path).map_err(|e| refuse(e.to_string()))?;
    if !facts.is_file() || facts.len() > 2 * MAX_TOKEN as u64 {
        return Err(refuse("not a file with a token".to_owned()));
    }
    std::fs::read_to_string(path).map_err(|e| refuse(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_port_is_a_wrong_flag() {
        let route = |address: &str| LinkArgs::default().route(address.to_owned());
        assert!(route("127.0.0.1:7100").is_ok() && route("[::1]:7100").is_ok());
        for bad in ["127.0.0.1", "nohost", "", "h:", "http://h:7100"] {
            assert!(matches!(route(bad), Err(LinkArgsError::Address(_))), "{bad}");
        }
    }

    #[test]
    fn tokens_are_read_whole_or_refused_without_being_repeated() {
        let read = |text: &str| LinkArgs::default().token(Some(text.to_owned()));
        assert!(read("0123456789abcdef\n").unwrap().unwrap().is(b"0123456789abcdef"));
        assert!(read("").unwrap().is_none());
        for bad in ["hunter2", "0123456789 abcdef hunter2", &"hunter2".repeat(1000)] {
            let refusal = read(bad).unwrap_err().to_string();
            assert!(!refusal.contains("hunter"), "{refusal}");
        }
        let args = LinkArgs { token_file: Some("/dev/zero".into()), ..Default::default() };
        assert!(args.token(None).is_err(), "a device is no token");
    }
}
