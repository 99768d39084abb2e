//! Steps of 12 ms for two requests, prefills of a tenth of a millisecond a token.

use super::*;

const MS: i64 = 1_000_000;

fn two(output: u64) -> Engine {
    let params = Params {
        prefill_tokens_per_s: 10_000.0,
        step_base_ns: 10 * MS,
        step_per_seq_ns: MS,
        max_num_seqs: 4,
        kv_tokens: 1000,
        max_queue: None,
    };
    let mut engine = Engine::new(params).unwrap();
    for id in [1, 2] {
        engine.arrive(0, Request::new(id, 10, output)).unwrap();
    }
    engine
}

/// When each token of a request comes, ms.
fn times(out: &[Emission], id: u64) -> Vec<i64> {
    out.iter().filter(|x| x.id == id).map(|x| x.at / MS).collect()
}

#[test]
fn a_pause_or_extra_work_holds_all_up_from_its_token_on() {
    for (cause, activity) in [
        (Cause::IdlePause { ns: 100 * MS }, Activity::Idle),
        (Cause::ExtraCompute { ns: 100 * MS }, Activity::Pegged),
    ] {
        let mut engine = two(4);
        engine.arm(2, 2, cause);
        let mut out = engine.advance(25 * MS);
        assert_eq!(engine.activity(), Activity::Busy(2));
        out.extend(engine.advance(40 * MS));
        assert_eq!(engine.activity(), activity, "from the end of the second step at 26 ms");
        engine.arrive(50 * MS, Request::new(3, 10, 1)).unwrap();
        out.extend(engine.advance(i64::MAX));
        for id in [1, 2] {
            assert_eq!(times(&out, id), [14, 26, 126 + 13 + 1, 152], "with the prefill of the third");
        }
        let hits = engine.take_hits();
        let hit = Hit { cause, from: 26 * MS, to: 126 * MS, trigger: 2, touched: vec![1, 2] };
        assert_eq!(hits, [hit]);
        assert_eq!((engine.activity(), engine.next_event()), (Activity::Idle, None));
    }
}

#[test]
fn before_the_first_token_it_is_the_prefill_that_waits() {
    let mut engine = two(1);
    engine.arm(1, 0, Cause::IdlePause { ns: 100 * MS });
    assert_eq!(times(&engine.advance(i64::MAX), 2), [100 + 12 + 2], "both prefills are still to be paid");
}

#[test]
fn one_that_is_put_out_waits_while_the_others_go_on_and_is_computed_again() {
    let mut engine = two(5);
    engine.arm(1, 2, Cause::Preempt { ns: 20 * MS });
    let mut out = engine.advance(30 * MS);
    assert_eq!((engine.running(), engine.queued(), engine.kv_used()), (1, 1, 15));
    assert_eq!(engine.activity(), Activity::Busy(1));
    out.extend(engine.advance(i64::MAX));
    // Out at 26 ms; steps of 11 end at 37 and 48, where its 20 ms are over; 12 tokens are computed again.
    assert_eq!(times(&out, 2), [14, 26, 37, 48, 48 + 12 + 1]);
    assert_eq!(times(&out, 1), [14, 26, 61, 72, 83]);
    assert_eq!(engine.take_hits()[0].touched, [1]);
    assert_eq!((engine.kv_used(), engine.queued()), (0, 0));
}

#[test]
fn alone_in_the_engine_it_comes_back_and_others_need_not_wait_for_it() {
    let mut engine = two(3);
    engine.cancel(2);
    engine.arm(1, 1, Cause::Preempt { ns: 500 * MS });
    engine.advance(100 * MS);
    assert_eq!((engine.activity(), engine.queued()), (Activity::Idle, 1));
    engine.arrive(100 * MS, Request::new(3, 10, 1)).unwrap();
    let out = engine.advance(i64::MAX);
    assert_eq!(times(&out, 3), [112]);
    assert_eq!(times(&out, 1)[0], 500 + 12 + 11 + 1);
    let mut engine = two(3);
    engine.arm(1, 1, Cause::Preempt { ns: 500 * MS });
    engine.advance(100 * MS);
    engine.cancel(1);
    assert_eq!(engine.queued(), 0, "its client has gone");
}

#[test]
fn a_throttle_slows_what_falls_within_it() {
    let mut engine = two(4);
    let throttle = Cause::Throttle { ns: 60 * MS, factor: 4.0, bits: 64 };
    engine.schedule(20 * MS, 0, throttle);
    let mut out = engine.advance(26 * MS);
    assert_eq!(engine.activity(), Activity::Throttled { batch: 2, factor: 4.0, bits: 64 });
    out.extend(engine.advance(i64::MAX));
    // From 26 to 86 ms: a whole step of 48 ms, and 12 ms in which a quarter of the next is done.
    assert_eq!(times(&out, 1), [14, 26, 74, 86 + 9]);
    assert_eq!((engine.take_hits().len(), engine.take_hits().len()), (1, 0));
}

#[test]
fn what_is_scheduled_waits_for_a_batch_and_what_never_comes_is_forgotten() {
    let mut engine = two(2);
    engine.schedule(0, 3, Cause::Preempt { ns: MS });
    engine.arm(1, 7, Cause::IdlePause { ns: MS });
    engine.advance(i64::MAX);
    assert_eq!(engine.take_hits()[0].trigger, 2, "the fourth of two is the second");
    assert!(engine.causes.armed.is_empty(), "its request has ended");
    engine.schedule(5_000 * MS, 0, Cause::IdlePause { ns: MS });
    assert_eq!(engine.next_event(), None);
    engine.arrive(6_000 * MS, Request::new(3, 10, 1)).unwrap();
    assert_eq!(times(&engine.advance(i64::MAX), 3), [6_000 + 1 + 12], "11 and the prefill's 1");
}
