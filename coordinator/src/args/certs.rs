//! `tailcliff certs` as typed.

use std::path::PathBuf;

use clap::Args;

/// `tailcliff certs`.
#[derive(Clone, Debug, Args)]
pub struct CertsArgs {
    /// Directory to make, with one for the coordinator and one for the nodes in it
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Names and addresses by which nodes dial the coordinator
    #[arg(long, value_name = "NAME,IP,…", required = true, value_delimiter = ',')]
    pub host: Vec<String>,
    /// How long the certificates are valid
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,
    /// Keep the CA's key too, to sign more certificates with; whoever has it can let anyone in
    #[arg(long)]
    pub keep_ca_key: bool,
}
