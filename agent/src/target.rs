//! What is under test: the wire's target parsed once at the edge into what a request needs, with its secrets kept from
//! anything that is printed.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderMap;
use http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING,
};
use http::header::{HeaderName, HeaderValue, USER_AGENT};
use http::uri::{PathAndQuery, Uri};
use serde_json::{Map, Value};
use tailcliff_proto::secret::is_secret;
use tailcliff_proto::trace_context::TraceContext;
use tailcliff_proto::v1;
use tokio::sync::OnceCell;

use crate::tls::{Tls, TlsError};

/// Where OpenAI-compatible servers list their models.
const MODELS: &str = "/v1/models";
/// The header by which a server's spans are children of the request's.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Used when the wire gives no connect timeout.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Used when the wire gives no request timeout; the value that the field's tools use is hours.
const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest text of a server that is kept, in characters.
const MAX_DETAIL: usize = 300;

/// Which of the two OpenAI endpoints is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
}

/// A parsed target. One per level, shared by every stream.
pub struct Target {
    host: String,
    port: u16,
    /// The URL's path before `/v1`, without a trailing slash; usually empty.
    prefix: String,
    path: PathAndQuery,
    headers: HeaderMap,
    secrets: Vec<String>,
    endpoint: Endpoint,
    model: String,
    streaming: bool,
    extra_body: Map<String, Value>,
    connect_timeout: Duration,
    request_timeout: Duration,
    read_timeout: Option<Duration>,
    tls: Option<Tls>,
    http2: bool,
    /// The user gave no `traceparent`, so that each request has one of its own.
    traces: bool,
    /// The head of each HTTP/1.1 request up to its id, and the lines that a GET has of it.
    post_head: Vec<u8>,
    get_head: Vec<u8>,
    /// Filled before the level starts; see [`crate::connection::addresses`].
    pub(crate) addresses: OnceCell<Vec<SocketAddr>>,
}

/// Why a target was refused. No message repeats a key or a header's value.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// TLS cannot be set up.
    #[error("failed to set up TLS for {0}: {1}")]
    Tls(String, TlsError),
    /// Not an http URL.
    #[error("failed to read the URL {url:?}: {reason}; expected http://host:port")]
    Url {
        /// As given, without user information.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Not a path.
    #[error("failed to read the path {0:?}: expected something like /v1/chat/completions")]
    Path(String),
    /// Neither chat nor completions.
    #[error("failed to read the target: the endpoint type must be chat or completions")]
    Endpoint,
    /// A header that cannot be sent, or that would break the framing of the request.
    #[error("failed to use the header {name:?}: {reason}")]
    Header {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The key has characters that no header can carry.
    #[error("failed to use the API key: it has characters that a header cannot carry (a line end?)")]
    ApiKey,
    /// Not a JSON object.
    #[error("failed to read the extra body: {0}")]
    ExtraBody(String),
}

impl Target {
    /// Parses a wire target. An empty `path` means the endpoint's usual one under `/v1`; a base URL that already ends
    /// in `/v1` is understood. A timeout that is not positive means 10 s to connect and 600 s for a request.
    pub fn parse(wire: &v1::Target) -> Result<Target, TargetError> {
        let uri = parse_url(&wire.base_url)?;
        let endpoint = parse_endpoint(wire.endpoint_type)?;
        let prefix = prefix_of(&uri);
        let path = parse_path(&prefix, &wire.path, endpoint)?;
        let is_secure = uri.scheme_str() == Some("https");
        let usual = if is_secure { 443 } else { 80 };
        let (host, port) = (uri.host().unwrap_or_default().to_owned(), uri.port_u16().unwrap_or(usual));
        let http2 = wire.http_version() == v1::HttpVersion::HttpVersion2;
        let headers = parse_headers(wire, &authority(&host, port))?;
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let tls = is_secure.then(|| Tls::new(wire, name, http2)).transpose();
        Ok(Target {
            post_head: head_of("POST", path.as_str(), &headers, &[]),
            get_head: head_of("GET", &format!("{prefix}{MODELS}"), &headers, &[CONTENT_TYPE, ACCEPT]),
            tls: tls.map_err(|e| TargetError::Tls(authority(&host, port), e))?,
            traces: !headers.contains_key(TRACEPARENT),
            headers,
            http2,
            read_timeout: u64::try_from(wire.read_timeout_ns)
                .ok()
                .filter(|&ns| ns > 0)
                .map(Duration::from_nanos),
            secrets: secrets_of(wire),
            extra_body: parse_extra_body(&wire.extra_body_json)?,
            connect_timeout: timeout(wire.connect_timeout_ns, DEFAULT_CONNECT_TIMEOUT),
            request_timeout: timeout(wire.request_timeout_ns, DEFAULT_REQUEST_TIMEOUT),
            model: wire.model.clone(),
            streaming: wire.streaming,
            addresses: OnceCell::new(),
            host,
            port,
            prefix,
            path,
            endpoint,
        })
    }

    /// Host name or address; an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port` as in a URL.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }

    /// What is posted to.
    pub fn path(&self) -> &PathAndQuery {
        &self.path
    }

    /// Path of the list of models.
    pub(crate) fn models_path(&self) -> PathAndQuery {
        PathAndQuery::try_from(format!("{}{MODELS}", self.prefix))
            .unwrap_or_else(|_| PathAndQuery::from_static(MODELS))
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// How its connections are secured, if they are.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// HTTP/2 is spoken: over TLS by ALPN, in the clear with prior knowledge.
    pub(crate) fn http2(&self) -> bool {
        self.http2
    }

    /// Writes the head of a POST in HTTP/1.1.
    pub(crate) fn write_head(&self, to: &mut Vec<u8>, request_id: &str, length: usize) {
        to.extend_from_slice(&self.post_head);
        to.extend_from_slice(b"x-request-id: ");
        to.extend(request_id.bytes().filter(u8::is_ascii_graphic));
        if let Some(trace) = self.trace_of(request_id) {
            to.extend_from_slice(b"\r\ntraceparent: ");
            to.extend_from_slice(&trace.traceparent());
        }
        to.extend_from_slice(b"\r\ncontent-length: ");
        to.extend_from_slice(length.to_string().as_bytes());
        to.extend_from_slice(b"\r\n\r\n");
    }

    /// By which the server's tracing knows a request; `None` where the user's own header is sent with each.
    pub(crate) fn trace_of(&self, request_id: &str) -> Option<TraceContext> {
        self.traces.then(|| TraceContext::of(request_id))
    }

    /// Writes the question for the list of models in HTTP/1.1.
    pub(crate) fn write_models_head(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.get_head);
        to.extend_from_slice(b"\r\n");
    }

    /// Every header of a request but `x-request-id`, a `traceparent` of its own and the length.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Chat or completions.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// The model's name; may be empty where the server has only one.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Replies are asked for as event streams.
    pub fn streaming(&self) -> bool {
        self.streaming
    }

    /// Keys that are merged over each body.
    pub fn extra_body(&self) -> &Map<String, Value> {
        &self.extra_body
    }

    /// Limit for name resolution and TCP connect together.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// Limit from issue to the reply's end.
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// Longest silence of the server from the send on, if there is such a limit.
    pub fn read_timeout(&self) -> Option<Duration> {
        self.read_timeout
    }

    /// Text of a server made fit to be stored: no secret, no control characters, at most 300 characters.
    pub fn redact(&self, text: &str) -> String {
        let mut clean = text.to_owned();
        for secret in &self.secrets {
            clean = clean.replace(secret, "***");
        }
        let clean = clean.chars().map(|c| if c.is_control() { ' ' } else { c });
        clean.take(MAX_DETAIL).collect()
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers, extra body and query may hold keys.
        f.debug_struct("Target")
            .field("authority", &self.authority())
            .field("path", &self.path.path())
            .field("endpoint", &self.endpoint)
            .field("model", &self.model)
            .field("streaming", &self.streaming)
            .finish_non_exhaustive()
    }
}

fn parse_url(url: &str) -> Result<Uri, TargetError> {
    let refuse = |reason| TargetError::Url { url: without_user(url), reason };
    let uri: Uri = url.trim().parse().map_err(|_| refuse("it is not a URL"))?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        _ => return Err(refuse("it does not start with http:// or https://")),
    }
    let authority = uri.authority().map_or("", |a| a.as_str());
    if authority.contains('@') {
        return Err(refuse("user and password belong in a header"));
    }
    if uri.host().is_none_or(str::is_empty) || authority.ends_with(':') {
        return Err(refuse("host or port is missing"));
    }
    // `http` keeps a port that is no u16 as text and then says that there is none.
    let port = authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
    if port.is_some() && uri.port_u16().is_none_or(|p| p == 0) {
        return Err(refuse("the port is not between 1 and 65535"));
    }
    if uri.query().is_some() {
        return Err(refuse("it has a query"));
    }
    Ok(uri)
}

/// The URL as a message may show it.
fn without_user(url: &str) -> String {
    let scheme = url.find("://").map_or(0, |i| i + 3);
    match url.rfind('@') {
        Some(at) if at >= scheme => format!("{}{}", &url[..scheme], &url[at + 1..]),
        _ => url.to_owned(),
    }
}

fn parse_endpoint(wire: i32) -> Result<Endpoint, TargetError> {
    match v1::EndpointType::try_from(wire) {
        Ok(v1::EndpointType::Chat) => Ok(Endpoint::Chat),
        Ok(v1::EndpointType::Completions) => Ok(Endpoint::Completions),
        _ => Err(TargetError::Endpoint),
    }
}

/// People paste the base that an OpenAI client wants, with `/v1`; paths here start with it.
fn prefix_of(uri: &Uri) -> String {
    let path = uri.path().trim_end_matches('/');
    path.strip_suffix("/v1").unwrap_or(path).to_owned()
}

fn parse_path(prefix: &str, path: &str, endpoint: Endpoint) -> Result<PathAndQuery, TargetError> {
    let path = match (path.trim(), endpoint) {
        ("", Endpoint::Chat) => "/v1/chat/completions",
        ("", Endpoint::Completions) => "/v1/completions",
        (given, _) => given,
    };
    if !path.starts_with('/') {
        return Err(TargetError::Path(path.to_owned()));
    }
    PathAndQuery::try_from(format!("{prefix}{path}")).map_err(|_| TargetError::Path(path.to_owned()))
}

fn authority(host: &str, port: u16) -> String {
    format!("{host}:{port}")
}

fn parse_headers(wire: &v1::Target, authority: &str) -> Result<HeaderMap, TargetError> {
    let mut headers = HeaderMap::new();
    let accept = if wire.streaming { "text/event-stream" } else { "application/json" };
    let agent = concat!("tailcliff/", env!("CARGO_PKG_VERSION"));
    let host = HeaderValue::from_str(authority)
        .map_err(|_| TargetError::Url { url: authority.to_owned(), reason: "it is no host" })?;
    headers.insert(HOST, host);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    headers.insert(USER_AGENT, HeaderValue::from_static(agent));
    if !wire.api_key.is_empty() {
        let value = format!("Bearer {}", wire.api_key.trim());
        headers.insert(AUTHORIZATION, sensitive(&value).ok_or(TargetError::ApiKey)?);
    }
    // A header that the user gives replaces ours.
    for header in &wire.headers {
        let (name, value) = parse_header(header)?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Request line and headers, each with its line end, but for the ones `without`.
fn head_of(method: &str, path: &str, headers: &HeaderMap, without: &[HeaderName]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\n").into_bytes();
    for (name, value) in headers.iter().filter(|(name, _)| !without.contains(name)) {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head
}

fn parse_header(header: &v1::Header) -> Result<(HeaderName, HeaderValue), TargetError> {
    let refuse = |reason| TargetError::Header { name: header.name.clone(), reason };
    let name: HeaderName = header.name.trim().parse().map_err(|_| refuse("it is not a header name"))?;
    if [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION].contains(&name) || name == "x-request-id" {
        return Err(refuse("tailcliff sets it itself"));
    }
    let value = sensitive(header.value.trim()).ok_or_else(|| refuse("its value cannot be sent"))?;
    Ok((name, value))
}

fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The key, and the values of headers, query parameters and fields of the extra body whose names say that they are
/// secret; longest first, so that a secret that is part of another does not leave the rest standing.
fn secrets_of(wire: &v1::Target) -> Vec<String> {
    let mut secrets = vec![wire.api_key.trim().to_owned()];
    for header in wire.headers.iter().filter(|header| is_secret(&header.name)) {
        // "Bearer KEY": the server may repeat the key alone.
        secrets.extend(header.value.split_whitespace().last().map(str::to_owned));
        secrets.push(header.value.trim().to_owned());
    }
    let query = wire.path.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    secrets.extend(pairs.filter(|(name, _)| is_secret(name)).map(|(_, value)| value.to_owned()));
    if let Ok(Value::Object(fields)) = serde_json::from_str(&wire.extra_body_json) {
        let named = fields.iter().filter(|(name, _)| is_secret(name));
        secrets.extend(named.filter_map(|(_, value)| value.as_str()).map(str::to_owned));
    }
    secrets.retain(|s| !s.is_empty());
    secrets.sort_by_key(|s| std::cmp::Reverse(s.len()));
    secrets
}

fn parse_extra_body(json: &str) -> Result<Map<String, Value>, TargetError> {
    if json.trim().is_empty() {
        return Ok(Map::new());
    }
    // A parse error's position is shown, its text is not: the body may hold a key.
    let value: Value = serde_json::from_str(json).map_err(|e| {
        TargetError::ExtraBody(format!("it is not JSON at line {} column {}", e.line(), e.column()))
    })?;
    let Value::Object(map) = value else {
        return Err(TargetError::ExtraBody("it is not a JSON object".to_owned()));
    };
    if map.contains_key("stream") {
        return Err(TargetError::ExtraBody("\"stream\" is set by the streaming flag".to_owned()));
    }
    Ok(map)
}

fn timeout(ns: i64, default: Duration) -> Duration {
    u64::try_from(ns).ok().filter(|&ns| ns > 0).map_or(default, Duration::from_nanos)
}

#[cfg(test)]
mod tests;
