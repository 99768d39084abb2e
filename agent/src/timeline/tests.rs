//! Events of one exchange, in the order and at the times they come, and the record that is made of them.

use proptest::prelude::*;
use tailcliff_proto::arrivals;

use super::*;

const MS: i64 = 1_000_000;

fn run(events: &[(i64, Event)]) -> RequestRecord {
    let mut timeline = Timeline::new(RequestRecord { intended_raw_ns: 1000, ..Default::default() });
    events.iter().for_each(|(at, event)| timeline.on(*at, event.clone()));
    timeline.into_record()
}

fn ok() -> (i64, Event) {
    (1500, Event::Headers { status: 200 })
}

fn text(at: i64) -> (i64, Event) {
    (at, Event::Content { chars: 3 })
}

fn usage(prompt: u64, completion: u64) -> Event {
    let (prompt_tokens, completion_tokens) = (Some(prompt), Some(completion));
    Event::Usage(Usage { prompt_tokens, completion_tokens, cached_tokens: None })
}

fn finish(at: i64) -> (i64, Event) {
    (at, Event::FinishReason("stop".to_owned()))
}

fn outcome(record: &RequestRecord) -> (Outcome, &str) {
    (Outcome::try_from(record.outcome).unwrap(), &record.error_kind)
}

fn gaps(record: &RequestRecord) -> Vec<(u64, u64)> {
    arrivals::decode(&record.arrivals).map(|a| a.map(|a| (a.gap_ns, a.chars)).unwrap()).collect()
}

#[test]
fn a_whole_life() {
    let record = run(&[
        (1010, Event::Issued),
        (1020, Event::Connected { reused: true }),
        (1030, Event::Sent),
        ok(),
        (1600, Event::Chunk),
        (1700, Event::Chunk),
        text(2000),
        text(2400),
        text(2500),
        finish(2500),
        (2600, usage(9, 4)),
        (2700, Event::DoneMarker),
    ]);
    assert_eq!(outcome(&record), (Outcome::Completed, ""));
    let stamps = [record.issued_raw_ns, record.connected_raw_ns, record.sent_raw_ns, record.headers_raw_ns];
    assert_eq!(stamps, [Some(1010), Some(1020), Some(1030), Some(1500)]);
    assert_eq!((record.first_chunk_raw_ns, record.done_raw_ns), (Some(1600), 2700));
    assert_eq!((record.first_token_raw_ns, record.last_token_raw_ns), (Some(2000), Some(2500)));
    assert!(record.reused_connection && record.http_status == Some(200));
    assert_eq!((record.prompt_tokens, record.output_tokens), (Some(9), Some(4)));
    assert_eq!(record.token_source(), TokenSource::Usage);
    assert_eq!((record.content_chunks, record.text_len), (3, 9));
    assert_eq!(gaps(&record), [(1000, 3), (400, 3), (100, 3)]);
    assert_eq!(record.longest_gap_ns, Some(400));
    assert_eq!((ttft_ns(&record), e2e_ns(&record), tpot_ns(&record)), (Some(1000), Some(1700), Some(166)));
}

#[test]
fn a_stall_is_one_gap() {
    let steady = (1..=20).map(|i| text(i * 10 * MS));
    let after = (0..20).map(|i| text(200 * MS + 724 * MS + i * 10 * MS));
    let record = run(&steady.chain(after).collect::<Vec<_>>());
    assert_eq!(record.longest_gap_ns, Some(724 * MS));
    let long: Vec<_> = gaps(&record).into_iter().filter(|g| g.0 > 10_000_000).collect();
    assert_eq!(long, [(724_000_000, 3)]);
}

#[test]
fn absent_is_none() {
    let record = run(&[(1010, Event::Issued), (1020, Event::Cancelled)]);
    assert_eq!(outcome(&record), (Outcome::Incomplete, "cancelled"));
    assert_eq!((record.sent_raw_ns, record.first_token_raw_ns, record.longest_gap_ns), (None, None, None));
    assert_eq!((record.output_tokens, record.http_status, record.prompt_tokens), (None, None, None));
    assert_eq!((ttft_ns(&record), tpot_ns(&record)), (None, None));
    let one = run(&[ok(), text(2000), finish(2000), (2000, usage(1, 1)), (2100, Event::DoneMarker)]);
    assert_eq!((one.longest_gap_ns, tpot_ns(&one), ttft_ns(&one)), (None, None, Some(1000)));
    let in_one_chunk = run(&[ok(), text(2000), finish(2000), (2000, usage(1, 50)), (2100, Event::Ended)]);
    assert_eq!(tpot_ns(&in_one_chunk), None);
}

#[test]
fn completed_needs_2xx_and_the_end_of_the_text() {
    let ends = |status, events: Vec<(i64, Event)>| {
        let mut all = vec![(1500, Event::Headers { status }), text(2000)];
        all.extend(events);
        let record = run(&all);
        (outcome(&record).0, record.error_kind)
    };
    let (marker, ended) = ((3000, Event::DoneMarker), (3000, Event::Ended));
    assert_eq!(ends(200, vec![marker.clone()]), (Outcome::Completed, String::new()));
    assert_eq!(ends(200, vec![finish(2500), ended.clone()]), (Outcome::Completed, String::new()));
    assert_eq!(ends(200, vec![ended.clone()]), (Outcome::Failed, "early_end".to_owned()));
    assert_eq!(ends(500, vec![finish(2500), ended]), (Outcome::Failed, "http_status".to_owned()));
    assert_eq!(ends(302, vec![marker]), (Outcome::Failed, "http_status".to_owned()));
    assert_eq!(ends(200, vec![finish(2500)]), (Outcome::Incomplete, "cancelled".to_owned()));
}

#[test]
fn the_end_is_the_end() {
    let failed = Event::Failed { kind: ErrorKind::ErrorEvent, detail: "oom".to_owned() };
    let record = run(&[ok(), text(2000), (2100, failed), text(2200), (2300, Event::DoneMarker)]);
    assert_eq!(outcome(&record), (Outcome::Failed, "error_event"));
    assert_eq!((record.content_chunks, record.done_raw_ns, &*record.error_detail), (1, 2100, "oom"));
}

#[test]
fn the_servers_own_times_are_kept_and_usage_has_the_first_word_on_the_cache() {
    let timings = |prefill_ns, decode_ns, cached_tokens| {
        (5, Event::Timings(Timings { prefill_ns, decode_ns, cached_tokens }))
    };
    let told = |events: &[(i64, Event)]| {
        let record = run(events);
        (record.server_prefill_ns, record.server_decode_ns, record.cached_tokens)
    };
    let cached = (5, Event::Usage(Usage { cached_tokens: Some(2), ..Usage::default() }));
    assert_eq!(told(&[ok(), text(2), (3, usage(1, 1))]), (None, None, None));
    let (early, late) = (timings(Some(7), Some(1), Some(9)), timings(None, Some(4), Some(9)));
    assert_eq!(told(&[ok(), early.clone(), late.clone()]), (Some(7), Some(4), Some(9)));
    for order in [[early.clone(), cached.clone()], [cached, early]] {
        assert_eq!(told(&order).2, Some(2));
    }
}

#[test]
fn where_tokens_come_from() {
    let whole = Event::WholeText { chars: 40, words: 7 };
    let tokens = |events: &[(i64, Event)]| {
        let record = run(events);
        (record.output_tokens, record.token_source(), record.text_len, record.first_token_raw_ns)
    };
    assert_eq!(tokens(&[ok(), text(2), text(3)]).0, Some(2));
    assert_eq!(tokens(&[ok(), text(2), text(3)]).1, TokenSource::Chunks);
    let repeated = [ok(), text(2), (2, usage(3, 1)), text(3), (3, usage(3, 5))];
    assert_eq!((tokens(&repeated).0, tokens(&repeated).1), (Some(5), TokenSource::Usage));
    assert_eq!(tokens(&[ok(), (9, whole.clone())]), (Some(7), TokenSource::Words, 40, None));
    assert_eq!(tokens(&[ok(), (9, whole), (9, usage(1, 10))]).0, Some(10));
    assert_eq!(tokens(&[ok()]).1, TokenSource::Unspecified);
}

#[test]
fn a_trace_that_is_too_long_is_dropped_whole_and_says_so() {
    let record = run(&(0..MAX_ARRIVALS as i64).map(|i| text(1000 + i)).collect::<Vec<_>>());
    assert!(record.arrivals_dropped && record.arrivals.is_empty());
    assert_eq!((record.content_chunks as usize, record.longest_gap_ns), (MAX_ARRIVALS, Some(1)));
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => Just(Event::Issued),
        1 => any::<bool>().prop_map(|reused| Event::Connected { reused }),
        1 => Just(Event::Sent),
        1 => (100u16..600).prop_map(|status| Event::Headers { status }),
        1 => Just(Event::Chunk),
        8 => (1u64..99).prop_map(|chars| Event::Content { chars }),
        1 => any::<(Option<u64>, Option<u64>)>().prop_map(|(prompt_tokens, completion_tokens)| {
            Event::Usage(Usage { prompt_tokens, completion_tokens, cached_tokens: None })
        }),
        1 => Just(Event::FinishReason("stop".to_owned())),
        1 => Just(Event::DoneMarker),
        1 => Just(Event::Ended),
        1 => Just(Event::Failed { kind: ErrorKind::EarlyEnd, detail: String::new() }),
        1 => Just(Event::Cancelled),
    ]
}

proptest! {
    #[test]
    fn any_order_of_events_gives_a_record_that_adds_up(
        mut events in proptest::collection::vec((any::<i64>(), event()), 0..40),
        sorted: bool,
    ) {
        if sorted {
            events.iter_mut().for_each(|e| e.0 = e.0.rem_euclid(1 << 40));
            events.sort_by_key(|e| e.0);
        }
        let record = run(&events);
        let gaps = gaps(&record);
        prop_assert_ne!(record.outcome(), Outcome::Unspecified);
        prop_assert_eq!(gaps.len(), record.content_chunks as usize);
        prop_assert_eq!(gaps.iter().map(|g| g.1).sum::<u64>(), record.text_len);
        let longest = gaps.iter().skip(1).map(|g| g.0 as i64).max();
        prop_assert_eq!(longest, record.longest_gap_ns);
        prop_assert_eq!(record.first_token_raw_ns.is_some(), record.content_chunks > 0);
        prop_assert_eq!(record.outcome() == Outcome::Completed, record.error_kind.is_empty());
        let _ = (ttft_ns(&record), e2e_ns(&record), tpot_ns(&record));
        if sorted && record.content_chunks > 0 && record.first_token_raw_ns >= Some(1000) {
            let total: u64 = gaps.iter().map(|g| g.0).sum();
            prop_assert_eq!(Some(total), span(1000, record.last_token_raw_ns.unwrap()));
        }
    }
}
