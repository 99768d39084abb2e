//! `tailcliff k8s`.

use super::{EXIT_OK, EXIT_USAGE, fail, print};
use crate::args::k8s::K8sCommand;
use crate::k8s;

pub(super) async fn main(command: K8sCommand) -> i32 {
    let env_key = std::env::var("OPENAI_API_KEY").ok();
    match command {
        K8sCommand::Render(args) => match k8s::render(&args, env_key) {
            Ok(yaml) => {
                print(yaml.trim_end());
                EXIT_OK
            }
            Err(error) => fail(&error.to_string(), EXIT_USAGE),
        },
        K8sCommand::Run(_) => fail("not yet", EXIT_USAGE),
    }
}
