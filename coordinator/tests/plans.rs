//! Every sample plan is a valid plan.

use std::path::Path;

use tailcliff::args::SweepArgs;
use tailcliff::config::Config;

#[test]
fn sample_plans_are_valid() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/plans");
    let mut seen = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let plan = entry.unwrap().path();
        let args = SweepArgs { plan: Some(plan.clone()), ..SweepArgs::default() };
        let config = Config::from_args(args, None).unwrap_or_else(|e| panic!("{}: {e}", plan.display()));
        assert!(!config.plan.levels().is_empty());
        seen += 1;
    }
    assert!(seen >= 7);
}
