//! `tailcliff`: the command line, and the one place where endings become exit codes.

use tailcliff::{cli, help};

fn main() {
    let code = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(cli::main(help::parse())),
        Err(_) => cli::EXIT_BROKEN,
    };
    std::process::exit(code);
}
