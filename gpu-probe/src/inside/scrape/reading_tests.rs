//! Recorded answers of real servers are read whole, and every figure checked; those of servers that nobody recorded are
//! written as their sources name them.

use proptest::prelude::*;
use tailcliff_proto::v1::{ServerHistogram, ServerLatency, ServerSample};

use super::*;

const VLLM: &str = include_str!("../../../testdata/metrics/vllm-0.32-metrics.txt");
const LLAMA: &str = include_str!("../../../testdata/metrics/llama-cpp-metrics.txt");

fn histogram(sample: &ServerSample, of: ServerLatency) -> Option<&ServerHistogram> {
    sample.histograms.iter().find(|histogram| histogram.of() == of)
}

fn sample(text: &str) -> ServerSample {
    read(text, &[]).sample
}

#[test]
fn vllms_figures_are_read() {
    let reading = read(VLLM, &[]);
    assert_eq!((reading.bad, reading.stack), (0, "vllm"));
    assert_eq!(reading.good, VLLM.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count());
    let mut sample = reading.sample;
    sample.histograms.clear();
    let figures = ServerSample {
        running: Some(0.0),
        waiting: Some(0.0),
        kv_usage: Some(0.0),
        preemptions: Some(0.0),
        cache_queries: Some(527.0),
        cache_hits: Some(0.0),
        prompt_tokens: Some(527.0),
        output_tokens: Some(870.0),
        ..Default::default()
    };
    assert_eq!(sample, figures);
}

#[test]
fn vllms_histograms_are_read() {
    let sample = sample(VLLM);
    let is = [
        (ServerLatency::Ttft, 31.0, 1.0267062187194824),
        (ServerLatency::Itl, 839.0, 4.04609728700143),
        (ServerLatency::Tpot, 31.0, 0.15610755337419635),
        (ServerLatency::E2e, 31.0, 5.059074401855469),
        (ServerLatency::Queue, 31.0, 0.0009109750026254915),
        (ServerLatency::Prefill, 31.0, 0.291607662997194),
        (ServerLatency::Decode, 31.0, 4.04609728700143),
    ];
    assert_eq!(sample.histograms.len(), is.len());
    for (of, count, sum) in is {
        let histogram = histogram(&sample, of).unwrap();
        assert_eq!((histogram.count, histogram.sum_s), (count, sum), "{of:?}");
        assert!(histogram.upper_s.is_sorted() && histogram.cumulative.is_sorted());
        assert!(histogram.upper_s.len() == histogram.cumulative.len() && histogram.upper_s.len() > 10);
        assert_eq!(histogram.cumulative.last(), Some(&count), "{of:?}");
    }
    let ttft = histogram(&sample, ServerLatency::Ttft).unwrap();
    let written = VLLM.lines().filter(|line| line.starts_with("vllm:time_to_first_token_seconds_bucket"));
    let written: Vec<f64> = written.filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).collect();
    assert_eq!(ttft.cumulative, written[..written.len() - 1], "without +Inf");
}

#[test]
fn llama_cpps_figures_are_read() {
    let reading = read(LLAMA, &[]);
    assert_eq!((reading.bad, reading.stack), (0, "llama.cpp"));
    let figures = ServerSample {
        running: Some(4.0),
        waiting: Some(2.0),
        // Processed and cached.
        cache_queries: Some(114.0),
        cache_hits: Some(4.0),
        drafted: Some(0.0),
        accepted: Some(0.0),
        prompt_tokens: Some(114.0),
        output_tokens: Some(14.0),
        ..Default::default()
    };
    assert_eq!(reading.sample, figures);
}

#[test]
fn engines_behind_one_endpoint_are_added_and_the_fullest_cache_counts() {
    let text = r#"vllm:num_requests_running{engine="0"} 2
vllm:num_requests_running{engine="1"} 3
vllm:kv_cache_usage_perc{engine="0"} 0.5
vllm:kv_cache_usage_perc{engine="1"} 0.25
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1"} 1
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf"} 4
vllm:time_to_first_token_seconds_bucket{engine="1",le="0.1"} 2
vllm:time_to_first_token_seconds_bucket{engine="1",le="0.2"} 2
vllm:time_to_first_token_seconds_bucket{engine="1",le="+Inf"} 2
vllm:time_to_first_token_seconds_sum{engine="0"} 1.5
vllm:time_to_first_token_seconds_sum{engine="1"} 0.25
"#;
    let sample = sample(text);
    assert_eq!((sample.running, sample.kv_usage, sample.waiting), (Some(5.0), Some(0.5), None));
    let ttft = histogram(&sample, ServerLatency::Ttft).unwrap();
    // A bound that one of them lacks tells nothing of both; the count is that of +Inf.
    assert_eq!((&ttft.upper_s[..], &ttft.cumulative[..]), (&[0.1][..], &[3.0][..]));
    assert_eq!((ttft.count, ttft.sum_s), (6.0, 1.75));
}

#[test]
fn older_names_count_only_where_the_newer_ones_are_missing() {
    let older = "vllm:gpu_cache_usage_perc 0.5\nvllm:gpu_prefix_cache_queries_total 8\n\
                 vllm:gpu_prefix_cache_hits_total 2\nvllm:time_per_output_token_seconds_sum 1\n\
                 vllm:time_per_output_token_seconds_count 4\n";
    let read = sample(older);
    assert_eq!((read.kv_usage, read.cache_queries, read.cache_hits), (Some(0.5), Some(8.0), Some(2.0)));
    assert_eq!(histogram(&read, ServerLatency::Itl).map(|of| of.count), Some(4.0));
    let both = format!(
        "{older}vllm:kv_cache_usage_perc 0.25\nvllm:prefix_cache_queries_total 9\nvllm:prefix_cache_hits_total 3\n\
         vllm:inter_token_latency_seconds_sum 2\nvllm:inter_token_latency_seconds_count 5\n"
    );
    let read = sample(&both);
    assert_eq!((read.kv_usage, read.cache_queries, read.cache_hits), (Some(0.25), Some(9.0), Some(3.0)));
    assert_eq!(read.histograms.len(), 1);
    assert_eq!(histogram(&read, ServerLatency::Itl).map(|of| of.count), Some(5.0));
}

#[test]
fn each_of_sglangs_data_parallel_ranks_counts_once() {
    let of = |dp: u32, tp: u32, pp: u32| {
        format!(
            "sglang:num_running_reqs{{tp_rank=\"{tp}\",pp_rank=\"{pp}\",dp_rank=\"{dp}\"}} 3\n\
             sglang:queue_time_seconds_sum{{tp_rank=\"{tp}\",pp_rank=\"{pp}\",dp_rank=\"{dp}\"}} 1\n\
             sglang:queue_time_seconds_count{{tp_rank=\"{tp}\",pp_rank=\"{pp}\",dp_rank=\"{dp}\"}} 2\n"
        )
    };
    // Attention by data over eight ranks, then over two of four each, then two engines of two ranks.
    let layouts: [(Vec<(u32, u32)>, f64); 3] = [
        ((0..8).map(|rank| (rank, rank)).collect(), 8.0),
        ((0..8).map(|rank| (rank / 4, rank)).collect(), 2.0),
        ((0..4).map(|rank| (rank / 2, rank % 2)).collect(), 2.0),
    ];
    for (layout, ranks) in layouts {
        // Another stage of the pipeline tells the same again.
        let text: String = layout.iter().map(|&(dp, tp)| of(dp, tp, 0) + &of(dp, tp, 1)).collect();
        let read = sample(&text);
        assert_eq!(read.running, Some(3.0 * ranks), "{layout:?}");
        assert_eq!(histogram(&read, ServerLatency::Queue).map(|of| of.count), Some(2.0 * ranks));
    }
}

#[test]
fn sglang_and_tgi_are_read() {
    let text = r#"sglang:num_running_reqs{tp_rank="0",pp_rank="0"} 7
sglang:num_running_reqs{tp_rank="1",pp_rank="0"} 7
sglang:num_queue_reqs{tp_rank="0"} 3
sglang:token_usage{tp_rank="0"} 0.28
sglang:cache_hit_rate{tp_rank="0"} 0.5
sglang:num_retracted_requests_total{tp_rank="0"} 2
sglang:prompt_tokens_total 100
sglang:cached_tokens_total 40
sglang:generation_tokens_total 60
sglang:queue_time_seconds_sum{tp_rank="0"} 5
sglang:queue_time_seconds_count{tp_rank="0"} 10
"#;
    let read = sample(text);
    let figures =
        [read.running, read.waiting, read.kv_usage, read.preemptions, read.cache_queries, read.cache_hits];
    assert_eq!(figures, [7.0, 3.0, 0.28, 2.0, 100.0, 40.0].map(Some));
    assert_eq!(histogram(&read, ServerLatency::Queue).map(|of| (of.count, of.sum_s)), Some((10.0, 5.0)));
    let named: Vec<_> = read.named.iter().map(|of| (of.name.as_str(), of.value)).collect();
    assert_eq!(named, [("sglang:cache_hit_rate{tp_rank=\"0\"}", 0.5)]);
    let read = sample("tgi_queue_size 4\ntgi_batch_current_size 8\n");
    assert_eq!((read.running, read.waiting), (Some(8.0), Some(4.0)));
}

#[test]
fn what_is_no_number_is_absent() {
    let text = "vllm:num_requests_running NaN\nvllm:num_requests_waiting +Inf\nvllm:kv_cache_usage_perc -1\n\
                vllm:e2e_request_latency_seconds_count 4\nvllm:prompt_tokens_total 1\n\
                vllm:request_queue_time_seconds_sum NaN\nvllm:request_queue_time_seconds_count 1\n";
    assert_eq!(sample(text), ServerSample { prompt_tokens: Some(1.0), ..Default::default() });
}

#[test]
fn series_that_were_asked_for_are_kept_as_they_are_written() {
    let names = [
        "http_requests_total",
        "vllm:request_inference_time_seconds_sum",
        "vllm:num_requests_running",
        "nope",
    ];
    let reading = read(VLLM, &names.map(str::to_owned));
    let named: Vec<_> = reading.sample.named.iter().map(|of| (of.name.as_str(), of.value)).collect();
    let http = |path, status| {
        format!("http_requests_total{{handler=\"/v1/{path}\",method=\"POST\",status=\"{status}\"}}")
    };
    let (ok, other, bad) =
        (http("chat/completions", "2xx"), http("completions", "2xx"), http("chat/completions", "4xx"));
    let engine = "{engine=\"0\",model_name=\"tiny32\"}";
    let (running, inference) = (
        format!("vllm:num_requests_running{engine}"),
        format!("vllm:request_inference_time_seconds_sum{engine}"),
    );
    let is =
        [(running.as_str(), 0.0), (&inference, 4.337704949998624), (&ok, 30.0), (&other, 1.0), (&bad, 2.0)];
    assert_eq!(named, is);
    assert_eq!(reading.absent, ["nope"]);
    assert_eq!(reading.sample.running, Some(0.0), "what is known is read all the same");
}

#[test]
fn of_too_much_the_first_is_kept() {
    let series: String = (0..1000).map(|i| format!("a{{i=\"{i}\"}} {i}\n")).collect();
    let bounds =
        |i: i32| format!("vllm:time_to_first_token_seconds_bucket{{le=\"{}\"}} {i}\n", f64::from(i) / 10.0);
    let buckets: String = (0..1000).map(bounds).collect();
    let rest = "vllm:time_to_first_token_seconds_sum 1\nvllm:time_to_first_token_seconds_count 1000\n";
    let reading = read(&format!("{series}{buckets}{rest}"), &["a".to_owned()]);
    assert_eq!((reading.sample.named.len(), reading.crowded), (64, vec!["a".to_owned()]));
    let ttft = histogram(&reading.sample, ServerLatency::Ttft).unwrap();
    assert_eq!((ttft.upper_s.len(), ttft.upper_s[63], ttft.cumulative[63]), (64, 6.3, 63.0));
}

#[test]
fn a_histogram_that_counts_fewer_below_more_is_none() {
    let text = "vllm:time_to_first_token_seconds_bucket{le=\"1\"} 5\nvllm:time_to_first_token_seconds_bucket{le=\"2\"} 4\n\
                vllm:time_to_first_token_seconds_sum 1\nvllm:time_to_first_token_seconds_count 5\n";
    assert!(sample(text).histograms.is_empty());
}

#[test]
fn every_name_has_one_row_and_every_latency_a_first_one() {
    for (at, (_, name, _)) in TABLE.iter().enumerate() {
        assert_eq!(row(name), Some(at), "{name}");
    }
}

proptest! {
    #[test]
    fn whatever_is_said_stays_within_its_bounds(
        text in r#"((vllm:|sglang:)(kv_cache_usage_perc|time_to_first_token_seconds_(bucket|sum|count)|token_usage)(\{le="(0\.1|1|\+Inf|-1|NaN)"\})? (1|-5|NaN|\+Inf|1e308|0\.5)\n){0,40}"#
    ) {
        let sample = sample(&text);
        for histogram in &sample.histograms {
            prop_assert!(histogram.upper_s.len() <= MOST_BOUNDS && histogram.upper_s.len() == histogram.cumulative.len());
            prop_assert!(histogram.cumulative.is_sorted() && histogram.upper_s.is_sorted());
            prop_assert!(histogram.upper_s.iter().all(|bound| bound.is_finite() && *bound >= 0.0));
        }
        prop_assert!(sample.kv_usage.is_none_or(|usage| usage >= 0.0));
    }
}
