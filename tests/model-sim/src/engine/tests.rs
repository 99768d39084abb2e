use std::collections::HashMap;

use super::*;

const MS: i64 = 1_000_000;

fn params() -> Params {
    Params {
        prefill_tokens_per_s: 1000.0,
        step_base_ns: 10 * MS,
        step_per_seq_ns: MS,
        max_num_seqs: 2,
        kv_tokens: 100,
        max_queue: None,
    }
}

fn engine(params: Params) -> Engine {
    Engine::new(params).unwrap()
}

#[test]
fn one_request_costs_prefill_and_a_step_per_token() {
    let mut e = engine(params());
    e.arrive(5 * MS, Request::new(7, 20, 3)).unwrap();
    let out = e.advance(i64::MAX);
    let at: Vec<i64> = out.iter().map(|x| x.at / MS).collect();
    assert_eq!(at, [5 + 20 + 11, 36 + 11, 47 + 11], "20 prompt tokens at 1/ms, then steps of 11 ms");
    assert_eq!(
        out.iter().map(|x| (x.token_index, x.last)).collect::<Vec<_>>(),
        [(0, false), (1, false), (2, true)]
    );
    assert_eq!((e.next_event(), e.kv_used()), (None, 0));
}

#[test]
fn a_prefill_delays_everyone_in_its_step() {
    let mut e = engine(params());
    e.arrive(0, Request::new(1, 10, 3)).unwrap();
    e.advance(21 * MS);
    e.arrive(21 * MS, Request::new(2, 30, 1)).unwrap();
    let out = e.advance(i64::MAX);
    let second = out.iter().find(|x| x.id == 1 && x.token_index == 1).unwrap().at;
    assert_eq!(second, 32 * MS, "advancing to 21 ms had begun the step already");
    assert_eq!(out.iter().find(|x| x.id == 2).unwrap().at, (32 + 10 + 2 + 30) * MS);
    assert_eq!(out.iter().find(|x| x.id == 1 && x.token_index == 2).unwrap().at, 74 * MS);
}

#[test]
fn an_arrival_at_the_end_of_a_step_joins_the_next() {
    let mut e = engine(params());
    e.arrive(0, Request::new(1, 10, 2)).unwrap();
    e.step();
    let at = e.step()[0].at;
    e.arrive(at, Request::new(2, 10, 1)).unwrap();
    let out = e.advance(i64::MAX);
    assert_eq!(out[0].at, out[1].at);
    assert_eq!(out[1].admitted_at, at);
}

#[test]
fn refuses_what_never_fits_and_what_finds_the_queue_full() {
    let mut e = engine(Params { max_queue: Some(1), ..params() });
    assert_eq!(e.arrive(0, Request::new(1, 60, 41)), Err(Refused::TooLong { needed: 101, budget: 100 }));
    assert_eq!(
        e.arrive(0, Request::new(1, u64::MAX, 2)),
        Err(Refused::TooLong { needed: u64::MAX, budget: 100 })
    );
    assert!(e.arrive(0, Request::new(1, 1, 0)).is_err(), "no tokens asked");
    for id in 0..3 {
        assert_eq!(e.arrive(0, Request::new(id, 10, 10)), Ok(()));
        e.advance(0);
    }
    assert_eq!(
        e.arrive(0, Request::new(9, 10, 10)),
        Err(Refused::QueueFull(2)),
        "one in its step, two waiting"
    );
}

#[test]
fn no_queue_at_all_still_serves_an_idle_engine() {
    let mut e = engine(Params { max_queue: Some(0), ..params() });
    assert_eq!(e.arrive(0, Request::new(1, 10, 10)), Ok(()));
    e.advance(0);
    assert_eq!(e.arrive(1, Request::new(2, 10, 10)), Ok(()), "a slot is free, though a step is under way");
    assert_eq!(e.arrive(2, Request::new(3, 10, 10)), Err(Refused::QueueFull(1)));
}

#[test]
fn cancelling_frees_the_slot_and_the_kv() {
    let mut e = engine(Params { max_num_seqs: 1, ..params() });
    e.arrive(0, Request::new(1, 40, 50)).unwrap();
    e.arrive(0, Request::new(2, 40, 1)).unwrap();
    e.arrive(0, Request::new(3, 40, 1)).unwrap();
    e.advance(0);
    e.cancel(1);
    e.cancel(2);
    let out = e.advance(i64::MAX);
    assert_eq!(out.iter().map(|x| x.id).collect::<Vec<_>>(), [3]);
    assert_eq!(e.kv_used(), 0);
}

#[test]
fn rejects_parameters_that_make_no_sense() {
    for bad in [
        Params { prefill_tokens_per_s: 0.0, ..params() },
        Params { prefill_tokens_per_s: f64::NAN, ..params() },
        Params { step_base_ns: 0, ..params() },
        Params { step_per_seq_ns: -1, ..params() },
        Params { max_num_seqs: 0, ..params() },
        Params { kv_tokens: 0, ..params() },
    ] {
        assert!(Engine::new(bad).is_err());
    }
}

/// Random arrivals through random engines: what must hold whatever happens.
#[test]
fn invariants_over_random_traffic() {
    let mut rng = fastrand::Rng::with_seed(11);
    for _ in 0..200 {
        let p = Params {
            max_num_seqs: rng.usize(1..9),
            kv_tokens: rng.u64(64..512),
            step_per_seq_ns: rng.i64(0..5 * MS),
            ..params()
        };
        check_traffic(&p, &mut rng);
    }
}

fn check_traffic(p: &Params, rng: &mut fastrand::Rng) {
    let mut e = engine(p.clone());
    let (mut now, mut asked, mut got) = (0, HashMap::new(), HashMap::<u64, u64>::new());
    let (mut admitted, mut last_at) = (Vec::new(), 0);
    let mut check = |e: &Engine, out: Vec<Emission>| {
        assert!(e.running() <= p.max_num_seqs, "more sequences than slots");
        assert!(e.kv_used() <= p.kv_tokens, "more KV than exists");
        for x in out {
            assert!(x.at >= last_at, "emissions out of order");
            assert!(x.admitted_at < x.at);
            last_at = x.at;
            let n = got.entry(x.id).or_default();
            assert_eq!(*n, x.token_index, "tokens of {} out of order", x.id);
            *n += 1;
            if x.token_index == 0 {
                admitted.push((x.admitted_at, x.id));
            }
        }
    };
    for id in 0..60 {
        now += rng.i64(0..30 * MS);
        while e.next_event().is_some_and(|at| at <= now) {
            let out = e.step();
            check(&e, out);
        }
        let (prompt_tokens, max_tokens) = (rng.u64(1..40), rng.u64(1..24));
        let request = Request { id, prompt_tokens, max_tokens, output_tokens: rng.u64(1..=max_tokens) };
        e.arrive(now, request).unwrap();
        asked.insert(id, request.output_tokens);
    }
    while e.next_event().is_some() {
        let out = e.step();
        check(&e, out);
    }
    assert_eq!(got, asked, "each request gets exactly its tokens");
    assert!(admitted.is_sorted(), "admission in order of arrival");
    assert_eq!((e.kv_used(), e.queued(), e.running()), (0, 0, 0));
}
