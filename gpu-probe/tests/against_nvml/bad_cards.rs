//! Cards that are lost, split, or tell less than others.

use std::time::Duration;

use tailcliff_proto::v1::Signal;

use crate::recorded::record;

const STEADY: &str = "once\nphase 1s power_w=200 util=70";

#[test]
fn a_lost_gpu_is_said_once_the_others_go_on_and_it_may_come_back() {
    let script = format!("gpus 2\nlost 1 800ms until 1500ms\n{STEADY}");
    let scene = record(&script, 3_500, |config| config.rates.lost = Duration::from_millis(100));
    assert_eq!(scene.events(), [("lost", 1, 15), ("back", 1, 0)], "{:?}", scene.recorded.troubles);
    let said = |what: &str| scene.recorded.troubles.iter().filter(|line| line.contains(what)).count();
    assert_eq!((said("GPU 1 gives no more samples"), said("GPU 1 answers again")), (1, 1));
    let between = |gpu: u32, from: i64, to: i64| {
        let within = scene.origin + from * 1_000_000..scene.origin + to * 1_000_000;
        scene.samples().filter(|s| s.gpu == gpu && within.contains(&s.raw_ns)).count()
    };
    assert_eq!(between(1, 800, 1_500), 0);
    assert!(between(0, 800, 1_500) > 10);
    assert!(between(1, 1_500, 3_500) > 10);
    let last = scene.origin + 1_900_000_000;
    assert!(scene.gpm().any(|s| s.gpu == 1 && s.from_raw_ns > last));
}

#[test]
fn an_xid_is_an_event_and_a_line_for_a_person() {
    let script = format!("gpus 2\nxid 0 31 900ms\nxid 0 79 1500ms\n{STEADY}");
    let scene = record(&script, 2_500, |_| {});
    assert_eq!(scene.events(), [("xid", 0, 31), ("xid", 0, 79)], "{:?}", scene.recorded.troubles);
    assert!(scene.recorded.troubles.iter().any(|line| line.contains("XID 79") && line.contains("bus")));
}

#[test]
fn a_denied_counter_is_absent_and_worded_unlike_an_unsupported_one() {
    let script =
        format!("error energy_field 4\nerror energy 4\nunsupported gpm_support temperature\n{STEADY}");
    let scene = record(&script, 700, |_| {});
    let notes = scene.recorded.gpus[0].notes.join("\n");
    assert!(notes.contains("the energy counter is not read, permission denied"), "{notes}");
    assert!(notes.contains("temperature is not read, not supported"), "{notes}");
    assert!(scene.samples().all(|s| s.energy_mj.is_none() && s.temperature_c.is_none()));
    assert_eq!(scene.gpm().count(), 0);
    assert!(scene.samples().filter(|s| s.power_instant_mw.is_some()).count() > 10);
    assert!(scene.samples().any(|s| s.mem_used_bytes.is_some()));
    let refused = scene.refused();
    for expected in [
        (0, Signal::Energy, "permission denied"),
        (0, Signal::Temperature, "not supported"),
        (0, Signal::Gpm, "not supported"),
    ] {
        assert!(refused.contains(&expected), "{refused:?}");
    }
}

#[test]
fn what_is_denied_only_later_is_told_then_and_the_rest_goes_on() {
    let scene = record(&format!("error utilization 4 after 1s\n{STEADY}"), 2_500, |_| {});
    let said = scene.recorded.troubles.iter().filter(|line| line.contains("utilisation: permission denied"));
    assert_eq!(said.count(), 1, "{:?}", scene.recorded.troubles);
    assert_eq!(scene.refused(), [(0, Signal::GpuUtil, "permission denied")]);
    let after = scene.origin + 1_100_000_000;
    assert!(scene.samples().any(|s| s.gpu_util_pct == Some(70) && s.raw_ns < after));
    assert!(scene.samples().filter(|s| s.raw_ns > after).all(|s| s.gpu_util_pct.is_none()));
    assert!(scene.samples().any(|s| s.raw_ns > after && s.sm_clock_mhz.is_some()));
}

#[test]
fn a_call_that_fails_for_a_while_is_told_once_and_asked_again() {
    let scene = record(&format!("error memory 999 until 900ms\n{STEADY}"), 2_500, |_| {});
    let said = scene.recorded.troubles.iter().filter(|line| line.contains("failed to read memory use"));
    assert_eq!(said.count(), 1, "{:?}", scene.recorded.troubles);
    let after = scene.origin + 900_000_000;
    assert!(scene.samples().any(|s| s.raw_ns > after && s.mem_used_bytes.is_some()));
}

#[test]
fn a_split_card_says_whose_its_readings_are() {
    let scene = record(&format!("gpus 2\nmig 0 3\n{STEADY}"), 600, |_| {});
    let notes = scene.recorded.gpus[0].notes.join("\n");
    assert!(notes.contains("MIG mode is on (3 instances)") && notes.contains("whole card's"), "{notes}");
    assert!(notes.contains("utilisation is not read, not supported"), "{notes}");
    assert!(scene.recorded.gpus[1].notes.is_empty(), "{:?}", scene.recorded.gpus[1].notes);
    let of = |gpu: u32| scene.samples().filter(move |s| s.gpu == gpu);
    assert!(of(0).all(|s| s.gpu_util_pct.is_none()) && of(0).any(|s| s.power_instant_mw.is_some()));
    assert!(of(1).any(|s| s.gpu_util_pct == Some(70)));
    assert!(scene.gpm().all(|s| s.gpu == 1) && scene.gpm().count() > 0);
}

#[test]
fn a_card_that_cannot_be_opened_is_noted_and_read_once_it_can_be() {
    let script = format!("gpus 2\nerror handle 999 until 1s\n{STEADY}");
    let scene = record(&script, 2_500, |config| config.rates.lost = Duration::from_millis(100));
    let notes = scene.recorded.gpus[1].notes.join("\n");
    assert!(notes.contains("could not be opened"), "{notes}");
    assert!(scene.events().contains(&("back", 1, 0)), "{:?}", scene.events());
    assert!(scene.samples().any(|s| s.gpu == 1 && s.power_instant_mw == Some(200_000)));
}
