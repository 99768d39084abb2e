//! Flags of a service level: the limits that a request must keep, and what the GPUs cost meanwhile.

use clap::Args;
use serde::{Deserialize, Deserializer, Serialize};

use super::values::scalar;

/// What counts as good.
#[derive(Clone, Debug, Default, Args, Deserialize, Serialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct SloArgs {
    /// Limits in ms that a request must keep to be good, as in vLLM: ttft:500 tpot:50. Of ttft, tpot, e2e (or e2el), and itl,
    /// which every gap of a request must keep.
    #[arg(long, value_name = "METRIC:MS", num_args = 1.., value_delimiter = ',')]
    #[serde(deserialize_with = "terms", skip_serializing_if = "Vec::is_empty")]
    pub goodput: Vec<String>,
    /// Share of the requests that must be good for a load to be within the SLO [default: 0.99].
    #[arg(long, value_name = "SHARE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slo_share: Option<f64>,
    /// What all GPUs that serve cost together, in $ an hour: good requests and tokens per $ are told.
    #[arg(long, value_name = "USD")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_price_per_hour: Option<f64>,
}

impl SloArgs {
    /// These flags, with what they leave open taken from `file`.
    #[must_use]
    pub fn over(self, file: Self) -> Self {
        Self {
            goodput: if self.goodput.is_empty() { file.goodput } else { self.goodput },
            slo_share: self.slo_share.or(file.slo_share),
            gpu_price_per_hour: self.gpu_price_per_hour.or(file.gpu_price_per_hour),
        }
    }
}

/// In a plan file: `ttft:500 tpot:50`, a list of such terms, or a map of metric to limit.
fn terms<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let value = serde_norway::Value::deserialize(from)?;
    read(&value).ok_or_else(|| serde::de::Error::custom("goodput: not limits: try \"ttft:500 tpot:50\""))
}

fn read(value: &serde_norway::Value) -> Option<Vec<String>> {
    match value {
        serde_norway::Value::Sequence(all) => {
            all.iter().map(read).collect::<Option<Vec<_>>>().map(|all| all.concat())
        }
        serde_norway::Value::Mapping(all) => {
            all.iter().map(|(metric, ms)| Some(format!("{}:{}", scalar(metric)?, scalar(ms)?))).collect()
        }
        serde_norway::Value::Null => Some(Vec::new()),
        one => Some(vec![scalar(one)?]),
    }
}
