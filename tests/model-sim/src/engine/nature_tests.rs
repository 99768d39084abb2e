//! Steps of 10 ms, prefills of a tenth of a millisecond a token.

use super::*;

const MS: i64 = 1_000_000;

fn engine(kv_tokens: u64, nature: Nature) -> Engine {
    let params = Params {
        prefill_tokens_per_s: 10_000.0,
        step_base_ns: 10 * MS,
        step_per_seq_ns: 0,
        max_num_seqs: 4,
        kv_tokens,
        max_queue: None,
    };
    Engine::new(params).unwrap().with(nature)
}

fn optimistic() -> Nature {
    Nature { admission: Admission::Optimistic, power: None }
}

fn times(out: &[Emission], id: u64) -> Vec<i64> {
    out.iter().filter(|x| x.id == id).map(|x| x.at / MS).collect()
}

#[test]
fn the_last_one_is_put_out_when_the_cache_overflows_and_computed_again() {
    let mut engine = engine(26, optimistic());
    engine.arrive(0, Request::new(1, 10, 5)).unwrap();
    engine.arrive(0, Request::new(2, 10, 5)).unwrap();
    let out = engine.advance(i64::MAX);
    // After three steps both hold 13 of 26 tokens: the second goes, and the first runs on alone for two steps. Then its 13
    // tokens are computed again.
    assert_eq!(times(&out, 1), [12, 22, 32, 42, 52]);
    assert_eq!(times(&out, 2), [12, 22, 32, 52 + 10 + 1, 52 + 20 + 1]);
    assert_eq!((engine.preemptions(), engine.kv_used(), engine.queued()), (1, 0, 0));
}

#[test]
fn by_prompt_alone_more_are_admitted_than_by_the_whole_need() {
    let run = |nature: Nature| {
        let mut engine = engine(60, nature);
        (0..4).for_each(|id| engine.arrive(0, Request::new(id, 10, 20)).unwrap());
        engine.advance(MS);
        engine.running()
    };
    assert_eq!((run(Nature::default()), run(optimistic())), (2, 4));
}

#[test]
fn the_cache_is_never_given_out_twice_and_always_given_back() {
    let mut rng = fastrand::Rng::with_seed(4);
    for _ in 0..50 {
        let budget = rng.u64(60..300);
        let mut engine = engine(budget, optimistic());
        let (mut done, mut seen) = (0, 0);
        for id in 0..60 {
            let request = Request::new(id, rng.u64(1..30), rng.u64(1..30));
            let out = engine.advance(id as i64 * 20 * MS);
            seen += out.len();
            done += out.iter().filter(|x| x.last).count();
            engine.arrive(id as i64 * 20 * MS, request).unwrap();
            if id % 7 == 0 {
                engine.cancel(id);
                done += 1;
            }
            assert!(engine.kv_used() <= budget);
        }
        let out = engine.advance(i64::MAX);
        done += out.iter().filter(|x| x.last).count();
        assert_eq!((done, engine.kv_used(), engine.queued(), engine.running()), (60, 0, 0, 0), "{seen}");
    }
}

#[test]
fn a_power_limit_slows_steps_from_the_batch_on_that_reaches_it() {
    let power =
        PowerCap { idle_w: 100.0, base_w: 100.0, per_seq_w: 100.0, limit_w: 400.0, exponent: 1.0, bits: 0x4 };
    let nature = Nature { power: Some(power), ..Nature::default() };
    let steps = |batch: u64| {
        let mut engine = engine(1_000, nature);
        (0..batch).for_each(|id| engine.arrive(0, Request::new(id, 10, 5)).unwrap());
        engine.advance(15 * MS);
        let shown = nature.levels(engine.activity(), 4);
        let out = engine.advance(i64::MAX);
        let times: Vec<i64> = out.iter().filter(|x| x.id == 0).map(|x| x.at).collect();
        (times[2] - times[1], shown.power_w, shown.sm_mhz, shown.throttle)
    };
    assert_eq!(steps(1), (10 * MS, 300, 1980, 0));
    assert_eq!(steps(2), (10 * MS, 400, 1980, 0));
    // Four want 500 W beyond idle, of which there are 300.
    assert_eq!(steps(4), (16_666_667, 400, 1188, 4));
}
