//! The HTTP side of a model server, as it is asked about itself: plain GETs with bounds, no redirects, no proxies.

use std::error::Error;
use std::time::Duration;

use reqwest::{Client, Url, redirect};
use tailcliff_proto::secret::{REDACTED, is_secret};

/// Bytes of an answer that are read: vLLM's metrics are 50 KiB.
const MOST_BYTES: usize = 8 << 20;

/// Where a server tells its metrics, and whatever else it tells of itself.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    client: Client,
    metrics: Url,
    /// Without the last part of the path; ends in a slash.
    base: String,
    /// As it may be shown.
    pub(crate) shown: String,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The `server` header.
    pub(crate) server: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}

/// Why there is no answer, or none that helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// HTTP's status, where there was an answer.
    pub(crate) status: Option<u16>,
    pub(crate) words: String,
}

impl Endpoint {
    /// HOST:PORT will do for http://HOST:PORT/metrics.
    ///
    /// # Errors
    /// In words, when the URL is none that can be asked.
    pub(crate) fn new(url: &str, patience: Duration) -> Result<Self, String> {
        // What is no URL may hold a secret all the same.
        let bad = |why: &str| format!("the URL of --server-metrics {why}: try http://HOST:PORT/metrics");
        let whole = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let mut metrics = Url::parse(&whole).map_err(|error| bad(&format!("is none ({error})")))?;
        if metrics.path() == "/" {
            metrics.set_path("/metrics");
        }
        match metrics.scheme() {
            "http" => {}
            "https" => return Err(bad("is https, which is not spoken to a server's metrics")),
            _ => return Err(bad("is not http")),
        }
        let client = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(patience)
            // One for the metrics, one for what is asked beside them.
            .pool_max_idle_per_host(2)
            .build()
            .map_err(|error| format!("failed to make an HTTP client: {error}"))?;
        Ok(Self { client, base: base(&metrics), shown: shown(&metrics), metrics })
    }

    /// # Errors
    /// In words: nobody answers, too slowly, too much, or with another status than 200.
    pub(crate) async fn metrics(&self) -> Result<Answer, Failure> {
        good(self.ask(self.metrics.clone()).await?)
    }

    /// Asks for a path beside the metrics.
    ///
    /// # Errors
    /// See [`Endpoint::metrics`].
    pub(crate) async fn get(&self, path: &str) -> Result<Answer, Failure> {
        let url = Url::parse(&format!("{}{path}", self.base));
        let url = url.map_err(|error| Failure { status: None, words: error.to_string() })?;
        good(self.ask(url).await?)
    }

    async fn ask(&self, url: Url) -> Result<Answer, Failure> {
        let failed = |error: reqwest::Error| Failure { status: None, words: words(&error) };
        let mut response = self.client.get(url).send().await.map_err(failed)?;
        let status = response.status().as_u16();
        let server = response.headers().get("server").and_then(|of| of.to_str().ok()).unwrap_or_default();
        let (server, mut body) = (server.chars().take(200).collect(), Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MOST_BYTES {
                let words = format!("its answer is longer than {} MiB", MOST_BYTES >> 20);
                return Err(Failure { status: None, words });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, server, body })
    }
}

fn good(answer: Answer) -> Result<Answer, Failure> {
    let why = match answer.status {
        200 => return Ok(answer),
        301..=308 => " (leads elsewhere, which is not followed)",
        401 | 403 => " (asks for a key)",
        404 | 405 | 501 => " (does not have it, or it is off)",
        _ => "",
    };
    Err(Failure { status: Some(answer.status), words: format!("HTTP {}{why}", answer.status) })
}

/// The error and what it comes from, without the URL, which may hold a secret.
fn words(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no whole answer in time".to_owned();
    }
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let what = if error.is_connect() { "failed to connect" } else { "the connection broke" };
    format!("{what}: {cause}").chars().take(300).collect()
}

/// Where the paths beside the metrics are.
fn base(metrics: &Url) -> String {
    let mut base = metrics.clone();
    base.set_query(None);
    base.set_fragment(None);
    let path = base.path().trim_end_matches('/').rsplit_once('/').map_or("", |(before, _)| before).to_owned();
    base.set_path(&format!("{path}/"));
    base.to_string()
}

/// Without user, password, and what of the query may be secret.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Of a URL that has a host neither fails.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    let Some(query) = url.query().map(str::to_owned) else { return url.to_string() };
    url.set_query(None);
    let part = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}={REDACTED}"),
        _ => pair.to_owned(),
    };
    format!("{url}?{}", query.split('&').map(part).collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_secrets_and_paths_lie_beside_it() {
        let of = |url| Endpoint::new(url, Duration::from_secs(1));
        let endpoint = of("http://me:hunter2@h:8000/a/metrics?token=hunter3&x=1#hunter4").unwrap();
        assert_eq!(endpoint.shown, "http://h:8000/a/metrics?token=(redacted)&x=1");
        assert!(endpoint.base.ends_with("h:8000/a/"), "{}", endpoint.base);
        assert_eq!(of("http://h/metrics").unwrap().base, "http://h/");
        assert_eq!(of("http://h").unwrap().base, "http://h/");
        assert_eq!(of("h:8000").unwrap().shown, "http://h:8000/metrics");
        for bad in ["", "me:hunter2", "ftp://h/metrics", "https://h/metrics", "http://"] {
            let error = of(bad).unwrap_err();
            assert!(error.contains("--server-metrics") && !error.contains("hunter"), "{error}");
        }
    }
}
