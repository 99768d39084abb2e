//! What the demo, the measurements and the multi-process tests share.

pub mod accounts;
pub mod causes;
pub mod csv;
pub mod floor;
pub mod forward;
pub mod knees;
pub mod light;
pub mod memory;
pub mod plain_reqwest;
pub mod roles;
pub mod simulated;
pub mod stalls;
pub mod truth_check;

mod lines;
#[cfg(test)]
mod testdata;

/// Flags of the demo's simulated server: decode steps of 8 ms and 0.1 ms for each of at most 16 sequences.
pub const DEMO_SERVER: [&str; 6] =
    ["--max-num-seqs", "16", "--step-base-ms", "8", "--step-per-seq-ms", "0.1"];

/// Index of the level where the demo's server has its knee, from its parameters alone.
///
/// # Errors
/// When the flags above make no sense to the server.
pub fn demo_knee(
    levels: &[u32],
    prompt_tokens: u32,
    output_tokens: u32,
    gain_share: f64,
) -> anyhow::Result<usize> {
    use clap::Parser;
    let args = model_sim::args::Args::try_parse_from(std::iter::once("model-sim").chain(DEMO_SERVER))?;
    let model_sim::Timing::Engine(params) = args.config()?.timing else {
        anyhow::bail!("the demo's server is paced")
    };
    let levels: Vec<usize> = levels.iter().map(|&level| level as usize).collect();
    let (prompt, output) = (u64::from(prompt_tokens), u64::from(output_tokens));
    Ok(model_sim::implied_knee(&params, &levels, prompt, output, gain_share).unwrap_or(levels.len() - 1))
}

/// A script for the simulated GPU: it follows the simulated server whose `--gpu-log` is at `log`, and is idle before.
pub fn follow_script(log: &std::path::Path) -> String {
    let idle = "power_w=75 util=0 mem_util=0 sm_mhz=1980 mem_mhz=2619 used_mib=40000 temp_c=45 throttle=0";
    format!("phase 1s {idle}\nonce\nfollow {}\n", log.display())
}
