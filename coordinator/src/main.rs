//! `tailcliff`: the command line, and the one place where endings become exit codes.

use clap::Parser;
use tailcliff::args::Cli;
use tailcliff::cli;

fn main() {
    let code = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(cli::main(Cli::parse())),
        Err(_) => cli::EXIT_BROKEN,
    };
    std::process::exit(code);
}
