//! When tokens come: what is printed shows how precisely, what is asserted never depends on an idle machine.

use model_sim::{Config, Params, Timing};

use crate::client::*;

#[test]
fn paced_tokens_are_never_early_and_do_not_drift() {
    let timing = Timing::Paced { ttft_ns: 50 * MS, itl_ns: 10 * MS };
    let server = Server::start(Config { timing, ..quick() });
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let mut client = server.connect();
            std::thread::spawn(move || {
                let body = chat("").replace(r#""max_tokens":5"#, r#""max_tokens":50"#);
                assert_eq!(client.post(CHAT, &body).content().0.len(), 50);
            })
        })
        .collect();
    clients.into_iter().for_each(|c| c.join().unwrap());
    let mut late: Vec<i64> = Vec::new();
    for record in server.stop().records {
        let due = (0..).map(|i| record.arrived_ns + 50 * MS + i * 10 * MS);
        late.extend(record.emissions.iter().zip(due).map(|(at, due)| at - due));
    }
    late.sort_unstable();
    assert_eq!(late.len(), 400);
    assert!(late[0] >= 0, "{} ns early", -late[0]);
    println!("late by p50 {} us, p99 {} us, max {} us", late[200] / 1000, late[396] / 1000, late[399] / 1000);
}

#[test]
fn the_engine_in_real_time_keeps_the_times_of_the_model() {
    let params = Params {
        prefill_tokens_per_s: 1000.0,
        step_base_ns: 4 * MS,
        step_per_seq_ns: MS,
        max_num_seqs: 1,
        ..Params::default()
    };
    let server = Server::start(Config { timing: Timing::Engine(params), ..quick() });
    let mut clients: Vec<Client> = (0..2).map(|_| server.connect()).collect();
    // The first reply takes 1.5 s, so that the second request surely comes while it runs.
    clients[0].send(post(CHAT, &chat("").replace(r#""max_tokens":5"#, r#""max_tokens":300"#), ""));
    clients[0].head();
    clients[1].send(post(CHAT, &chat(""), ""));
    clients[1].head();
    clients.iter_mut().for_each(|c| assert!(!c.chunks().1));
    let truth = server.stop();
    let [first, second] = &truth.records[..] else { panic!("{truth:?}") };
    // Three prompt words at 1 per ms, and steps of 5 ms.
    assert_eq!(first.first_token_ns.unwrap() - first.enqueued_ns.unwrap(), 8 * MS);
    assert!(first.emissions[0] >= first.first_token_ns.unwrap());
    let last_token_ns = first.first_token_ns.unwrap() + 299 * 5 * MS;
    assert!(first.emissions[299] >= last_token_ns);
    assert!(second.enqueued_ns.unwrap() < last_token_ns, "the machine stood still for more than a second");
    assert_eq!(second.dequeued_ns.unwrap(), last_token_ns, "one slot: the second waits");
    assert_eq!(second.first_token_ns.unwrap() - second.dequeued_ns.unwrap(), 8 * MS);
}
