//! Mutual TLS between nodes: each end shows a certificate and takes only those that the given CA signed. TLS 1.3 alone,
//! and every connection is checked anew.

mod own;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};

use own::OwnCertificate;

/// HTTP/2, which gRPC is spoken over.
const ALPN: &[u8] = b"h2";
/// A certificate, a key or a bundle of CAs is smaller than this, bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Names of the three files in a directory of them: as a TLS secret of Kubernetes has them.
pub const FILE_NAMES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// Why TLS cannot be set up from the given files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("failed to read {path}: {reason}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A file does not hold what it should.
    #[error("failed to use {path}: {reason}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Our own certificate is out of date: no peer would take it.
    #[error(
        "failed to use {path}: the certificate {reason}; make new ones with `tailcliff certs`, or check this host's clock"
    )]
    OutOfDate {
        /// The file.
        path: PathBuf,
        /// How.
        reason: &'static str,
    },
    /// Certificate and key do not fit, or are of a kind that is not supported.
    #[error("failed to set up TLS with {path}: {reason}; do the certificate and the key belong together?")]
    Setup {
        /// The certificate's file.
        path: PathBuf,
        /// What the library said.
        reason: String,
    },
}

/// One end's certificate and key, and the CA that it trusts; both ends of a connection are made from it.
#[derive(Clone)]
pub struct Tls {
    client: Arc<ClientConfig>,
    to_self: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Tls {
    /// Reads PEM files: a certificate (with its chain, if any), its key, and the CAs to trust.
    ///
    /// # Errors
    /// When one cannot be read or used, or the certificate is out of date.
    pub fn load(cert: &Path, key: &Path, ca: &Path) -> Result<Self, TlsError> {
        let tls = Self::from_pem(&[(cert, &read(cert)?), (key, &read(key)?), (ca, &read(ca)?)])?;
        tls.1.map_or(Ok(tls.0), |reason| Err(TlsError::OutOfDate { path: cert.to_owned(), reason }))
    }

    /// The same from a directory with files named as [`FILE_NAMES`].
    ///
    /// # Errors
    /// As [`Tls::load`].
    pub fn load_dir(dir: &Path) -> Result<Self, TlsError> {
        let [cert, key, ca] = FILE_NAMES.map(|name| dir.join(name));
        if !cert.exists() {
            let inside = dir.join("node").join(FILE_NAMES[0]);
            let hint = match inside.exists() {
                true => {
                    "it is what `tailcliff certs` made for both ends: give its folder coordinator or node"
                }
                false => "make certificates with `tailcliff certs`",
            };
            return Err(TlsError::Read { path: cert, reason: format!("no such file; {hint}") });
        }
        Self::load(&cert, &key, &ca)
    }

    /// From PEM in memory.
    ///
    /// # Errors
    /// As [`Tls::load`], but for the date.
    pub fn of_pem(pems: &[String; 3]) -> Result<Self, TlsError> {
        let bytes = pems.each_ref().map(|pem| pem.as_bytes().to_vec());
        let [cert, key, ca] = FILE_NAMES.map(Path::new);
        Ok(Self::from_pem(&[(cert, &bytes[0]), (key, &bytes[1]), (ca, &bytes[2])])?.0)
    }

    /// From certificate, key and CA, each with its file's name, and why no peer would take the certificate at this time.
    fn from_pem(
        [(cert_path, cert), (key_path, key), (ca_path, ca)]: &[(&Path, &Vec<u8>); 3],
    ) -> Result<(Self, Option<&'static str>), TlsError> {
        let certs = certificates(cert_path, cert)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| TlsError::Pem {
            path: key_path.to_path_buf(),
            reason: format!("no PEM key: {e}"),
        })?;
        let mut roots = RootCertStore::empty();
        for ca in certificates(ca_path, ca)? {
            let refuse =
                |e: rustls::Error| TlsError::Pem { path: ca_path.to_path_buf(), reason: e.to_string() };
            roots.add(ca).map_err(refuse)?;
        }
        let setup =
            |e: &dyn fmt::Display| TlsError::Setup { path: cert_path.to_path_buf(), reason: e.to_string() };
        let (roots, provider) = (Arc::new(roots), Arc::new(ring::default_provider()));
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
        let verifier = verifier.map_err(|e| setup(&e))?;
        let out_of_date = out_of_date(&*verifier, &certs);
        let client = client(&provider, roots, certs.clone(), key.clone_key()).map_err(|e| setup(&e))?;
        let to_self = to_self(&client, &provider, &certs);
        let server = server(&provider, verifier, certs, key).map_err(|e| setup(&e))?;
        let (client, to_self, server) = (Arc::new(client), Arc::new(to_self), Arc::new(server));
        Ok((Self { client, to_self, server }, out_of_date))
    }

    /// For the end that dials.
    pub fn client(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }

    /// For dialling who has this very certificate, which is oneself, by any address.
    #[must_use]
    pub fn to_self(&self) -> Self {
        Self { client: self.to_self.clone(), ..self.clone() }
    }

    /// For the end that listens.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

fn client(
    provider: &Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    certs: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13])?;
    let mut config = builder.with_root_certificates(roots).with_client_auth_cert(certs, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn to_self(
    client: &ClientConfig,
    provider: &Arc<CryptoProvider>,
    certs: &[CertificateDer<'static>],
) -> ClientConfig {
    let mut config = client.clone();
    if let Some(own) = certs.first().cloned() {
        let verifier = OwnCertificate { own, provider: provider.clone() };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
    }
    config
}

fn server(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ClientCertVerifier>,
    certs: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13])?;
    let mut config = builder.with_client_cert_verifier(verifier).with_single_cert(certs, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Whether a peer would find our certificate out of date. That it trusts another CA than we do is its own affair.
fn out_of_date(verifier: &dyn ClientCertVerifier, certs: &[CertificateDer<'_>]) -> Option<&'static str> {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let (own, chain) = certs.split_first()?;
    match verifier.verify_client_cert(own, chain, UnixTime::now()) {
        Err(rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. })) => Some("has expired"),
        Err(rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. })) => {
            Some("is not valid yet")
        }
        _ => None,
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let refuse = |reason: String| TlsError::Pem { path: path.to_owned(), reason };
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|e| refuse(format!("no PEM certificate: {e}")))?;
    if all.is_empty() { Err(refuse("it holds no PEM certificate".to_owned())) } else { Ok(all) }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let refuse = |reason: String| TlsError::Read { path: path.to_owned(), reason };
    let facts = std::fs::metadata(path).map_err(|e| refuse(e.to_string()))?;
    // A device or a pipe could be read for ever.
    if !facts.is_file() || facts.len() > MAX_FILE_BYTES {
        return Err(refuse("not a file of at most 1 MiB".to_owned()));
    }
    std::fs::read(path).map_err(|e| refuse(e.to_string()))
}
