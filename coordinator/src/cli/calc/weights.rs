//! `tailcliff weights`.

use serde_json::{Value, json};

use super::{CalcError, RECKONED, bad, conclude};
use crate::args::calc::WeightsArgs;
use crate::calc::weights::{self, PRECISIONS};
use crate::calc::{model, summary, table};
use crate::report::text::number;

pub(crate) fn weights(args: &WeightsArgs) -> i32 {
    conclude(reckon(args), args.json)
}

fn reckon(args: &WeightsArgs) -> Result<(String, Value), CalcError> {
    let params = match &args.config {
        Some(path) => {
            let model = model::read(path)?;
            let unknown = || {
                bad(
                    "--config",
                    format!("parameters of a {:?} are not counted here: give --params", model.kind),
                )
            };
            model.params.ok_or_else(unknown)?
        }
        None => args.params.unwrap_or(summary::PARAMS),
    };
    let gib = |bytes: f64| weights::gib(params, bytes);
    let row = |(name, bytes): &(&str, f64)| {
        vec![(*name).to_owned(), bytes.to_string(), format!("{:.1}", gib(*bytes))]
    };
    let header = ["precision", "bytes", "GiB"].map(str::to_owned).to_vec();
    let rows: Vec<_> = std::iter::once(header).chain(PRECISIONS.iter().map(row)).collect();
    let text = format!(
        "{:.2} billion parameters, {RECKONED}; scales of quantisation and the KV cache come on top\n\n{}",
        params / 1e9,
        table(&rows)
    );
    let precision = |(name, bytes): &(&str, f64)| json!({ "name": name, "bytes": bytes, "gib": number(Some(gib(*bytes)), 6) });
    Ok((
        text,
        json!({ "params": params, "precisions": PRECISIONS.iter().map(precision).collect::<Vec<_>>() }),
    ))
}
