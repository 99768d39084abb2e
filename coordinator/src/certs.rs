//! Throw-away certificates for one fleet: a CA that signs one certificate for the coordinator and one for all nodes, and is
//! then forgotten, so that nothing that it signs can appear later.

use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use chrono::{Datelike, Days, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Usage, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tailcliff_proto::link::tls::FILE_NAMES;

use crate::args::certs::CertsArgs;

const CA_KEY: &str = "ca.key";

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// A host that no certificate can name.
    #[error(
        "bad --host {0:?}: give names or addresses without a port, as nodes dial them: gpu-7.example,10.0.0.7"
    )]
    Host(String),
    /// Files would be overwritten.
    #[error("{} is there already: name another --out, or remove it", .0.display())]
    Exists(PathBuf),
    /// Files cannot be written.
    #[error("failed to write {}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// The library cannot make them.
    #[error("failed to make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// Makes them and says what goes where.
///
/// # Errors
/// When a host makes no sense, the directory is there already, or cannot be written.
pub fn make(args: &CertsArgs) -> Result<String, CertsError> {
    if args.out.exists() {
        return Err(CertsError::Exists(args.out.clone()));
    }
    let signed = sign(&args.host, args.days)?;
    directory(&args.out)?;
    for (name, pems) in signed.ends {
        let dir = args.out.join(name);
        directory(&dir)?;
        let files = FILE_NAMES.into_iter().zip(pems);
        files.into_iter().try_for_each(|(file, pem)| write(&dir.join(file), &pem))?;
    }
    if args.keep_ca_key {
        write(&args.out.join(CA_KEY), &signed.ca_key)?;
    }
    Ok(words(args))
}

/// Certificates of a fleet, nowhere but here.
pub struct Signed {
    /// Of the coordinator and of all nodes: certificate, key and CA, as [`FILE_NAMES`] has them.
    pub ends: [(&'static str, [String; 3]); 2],
    ca_key: String,
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(keys, redacted)")
    }
}

/// Signs them for a coordinator that is dialled by `hosts`.
///
/// # Errors
/// When a host makes no sense.
pub fn sign(hosts: &[String], days: u32) -> Result<Signed, CertsError> {
    let hosts = hosts.iter().map(|host| named(host)).collect::<Result<Vec<_>, _>>()?;
    let (ca_params, ca_key) = (ca(days), KeyPair::generate()?);
    let ca_cert = ca_params.self_signed(&ca_key)?;
    let issuer = Issuer::from_params(&ca_params, &ca_key);
    // The coordinator serves; a node only dials, so that a stolen node's certificate makes no coordinator.
    let one = |name: &'static str, hosts, usages| -> Result<_, CertsError> {
        let key = KeyPair::generate()?;
        let cert = end(name, hosts, usages, days)?.signed_by(&key, &issuer)?;
        Ok((name, [cert.pem(), key.serialize_pem(), ca_cert.pem()]))
    };
    let ends = [
        one("coordinator", hosts, vec![Usage::ServerAuth, Usage::ClientAuth])?,
        one("node", Vec::new(), vec![Usage::ClientAuth])?,
    ];
    Ok(Signed { ends, ca_key: ca_key.serialize_pem() })
}

fn words(args: &CertsArgs) -> String {
    let out = args.out.display();
    let days = if args.days == 1 { "1 day".to_owned() } else { format!("{} days", args.days) };
    let ca = if args.keep_ca_key {
        format!("{out}/{CA_KEY} signs whatever it is asked to: keep it away from all of these hosts")
    } else {
        "the CA's key was thrown away: more nodes share the node's files, and a new fleet gets new ones"
            .to_owned()
    };
    format!(
        "for {}, {days} from now:\n  {out}/coordinator stays with the coordinator: tailcliff coordinate --tls-dir \
         {out}/coordinator …\n  {out}/node goes to every agent and gpu-probe: tailcliff-agent --tls-dir {out}/node …\n{ca}",
        args.host.join(", ")
    )
}

fn ca(days: u32) -> CertificateParams {
    let mut params = valid(days);
    params.distinguished_name.push(DnType::CommonName, "tailcliff throw-away CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn end(
    name: &str,
    hosts: Vec<String>,
    usages: Vec<Usage>,
    days: u32,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = valid(days);
    params.subject_alt_names = CertificateParams::new(hosts)?.subject_alt_names;
    params.distinguished_name.push(DnType::CommonName, format!("tailcliff {name}"));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// From yesterday on, since clocks of a fleet differ, and to the end of the last day (UTC).
fn valid(days: u32) -> CertificateParams {
    let today = Utc::now().date_naive();
    let date = |day: chrono::NaiveDate| rcgen::date_time_ymd(day.year(), day.month() as u8, day.day() as u8);
    let yesterday = today.checked_sub_days(Days::new(1)).unwrap_or(today);
    let end = today.checked_add_days(Days::new(u64::from(days) + 1)).unwrap_or(today);
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    (params.not_before, params.not_after) = (date(yesterday), date(end));
    params
}

/// A host as a certificate names it: an IPv6 address without its brackets.
fn named(host: &str) -> Result<String, CertsError> {
    let name = host.trim().trim_start_matches('[').trim_end_matches(']');
    let is_name = |name: &str| {
        let is_label = |label: &str| {
            !label.is_empty()
                && label.len() < 64
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        name.len() < 254 && name.strip_prefix("*.").unwrap_or(name).split('.').all(is_label)
    };
    if name.parse::<IpAddr>().is_ok() || is_name(name) {
        Ok(name.to_owned())
    } else {
        Err(CertsError::Host(host.to_owned()))
    }
}

fn directory(path: &Path) -> Result<(), CertsError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.mode(0o700).create(path).map_err(|reason| CertsError::Write { path: path.to_owned(), reason })
}

/// For this user's eyes alone from the first byte on.
fn write(path: &Path, pem: &str) -> Result<(), CertsError> {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(pem.as_bytes()));
    written.map_err(|reason| CertsError::Write { path: path.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use tailcliff_proto::link::tls::Tls;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::{named, sign};

    #[tokio::test]
    async fn a_process_knows_itself_by_any_address_and_takes_nobody_else_for_itself() {
        let coordinator =
            || Tls::of_pem(&sign(&["elsewhere.example".to_owned()], 1).unwrap().ends[0].1).unwrap();
        let (own, other) = (coordinator(), coordinator());
        let met = async |dialler: &Tls, listener: &Tls| {
            let (near, far) = tokio::io::duplex(1 << 16);
            let to = "127.0.0.1".try_into().unwrap();
            let dial = TlsConnector::from(dialler.client()).connect(to, near);
            let (dialled, taken) = tokio::join!(dial, TlsAcceptor::from(listener.server()).accept(far));
            dialled.is_ok() && taken.is_ok()
        };
        assert!(met(&own.to_self(), &own).await);
        assert!(!met(&own, &own).await, "the name does not fit");
        assert!(!met(&own.to_self(), &other).await);
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for good in ["localhost", "gpu-7.example", "10.0.0.7", "::1", "[::1]", "*.fleet.svc"] {
            assert!(named(good).is_ok(), "{good}");
        }
        for bad in ["", "host:7100", "a b", "http://x", "a..b", "[10.0.0.1]:3", "*"] {
            assert!(named(bad).is_err(), "{bad}");
        }
    }
}
