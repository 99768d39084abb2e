//! `tailcliff kv`, `weights`, `cost`: what was typed goes into the calculators, and comes out as a table or as JSON.

mod cost;
mod kv;
mod weights;

use serde_json::Value;

pub(super) use self::cost::cost;
pub(super) use self::kv::kv;
pub(super) use self::weights::weights;
use super::{EXIT_OK, EXIT_OUTPUT, EXIT_USAGE, fail, print};
use crate::calc::measured::MeasuredError;
use crate::calc::model::ModelError;

/// What is said under every table.
const RECKONED: &str = "reckoned from the formula, not measured";

/// Why a calculator cannot answer.
#[derive(Debug, thiserror::Error)]
enum CalcError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Measured(#[from] MeasuredError),
    #[error("bad {flag}: {reason}")]
    Bad { flag: &'static str, reason: String },
}

fn bad(flag: &'static str, reason: impl Into<String>) -> CalcError {
    CalcError::Bad { flag, reason: reason.into() }
}

/// Prints it, as asked for.
fn conclude(result: Result<(String, Value), CalcError>, as_json: bool) -> i32 {
    match result {
        Ok((text, _)) if !as_json => print(text.trim_end()),
        Ok((_, json)) => print(&format!("{json:#}")),
        Err(error) => {
            let code = match &error {
                CalcError::Bad { .. } | CalcError::Model(ModelError::Understand { .. }) => EXIT_USAGE,
                CalcError::Model(ModelError::Read { .. }) | CalcError::Measured(_) => EXIT_OUTPUT,
            };
            return fail(&error.to_string(), code);
        }
    }
    EXIT_OK
}
