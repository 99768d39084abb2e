//! What requests ask for: from flags, a dataset's file and a tokenizer to what agents are told, and what is stored of it.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use tailcliff_proto::tokens::TokenCounter;
use tailcliff_proto::{MAX_CORPUS_BYTES, MAX_INPUT_WORDS, v1};

use crate::args::SweepArgs;
use crate::config::{ConfigError, bad};
use crate::dataset::{self, Corpus, Dataset, Format, MAX_LABEL, Reading, one_token_words};
use crate::plan::{DatasetFacts, FileFacts, Plan, SamplingPlan, SyntheticPlan};
use crate::tokenizer::Tokenizer;

/// Turns of a synthetic session unless told, and at most.
const USUAL_TURNS: u32 = 3;
const MOST_TURNS: u32 = 1_000;

/// The workload, with the corpus that it draws from; completes the plan.
pub(crate) fn of(
    args: &SweepArgs,
    plan: &mut Plan,
) -> Result<(v1::Workload, Option<Arc<Corpus>>), ConfigError> {
    let name = name(args)?;
    plan.sampling = sampling(args)?;
    plan.synthetic = synthetic(args, plan, name)?;
    plan.prompt_label = label(args)?;
    let tokenizer = args.tokenizer.as_deref().map(Tokenizer::load).transpose()?;
    let counter = tokenizer.as_ref().map(|tokenizer| &tokenizer.counter);
    plan.input_len_unit = if counter.is_some() { "tokens" } else { "words" }.to_owned();
    let format = format(name);
    let mut entries = Vec::new();
    let mut file = None;
    if let Some(format) = format {
        let (path, dataset) = read(args, plan, format, counter)?;
        let usual = if format == Format::Mooncake { "sequential" } else { "shuffled" };
        let order = args.dataset_order.as_deref().unwrap_or(usual).to_owned();
        file = Some(FileFacts { order, ..facts(path, &dataset) });
        entries = dataset.entries;
    } else if let Some(unread) = first_of_a_file(args) {
        return Err(bad(unread, format!("{name} has no file: give --dataset-name {}", FILES.join(", "))));
    }
    let makes_words = plan.prompt.is_none() && matches!(format, None | Some(Format::Mooncake));
    let words = match counter.filter(|_| makes_words) {
        Some(counter) => {
            let lengths = [plan.input_len, plan.synthetic.shared_prefix_len.max(1)];
            one_token_words(counter, &lengths).map_err(|reason| bad("--tokenizer", reason))?
        }
        None => Vec::new(),
    };
    plan.tokenizer = tokenizer.as_ref().map(|tokenizer| tokenizer.facts(words.len()));
    let sequential = file.as_ref().is_some_and(|file| file.order == "sequential");
    plan.dataset = plan.prompt.is_none().then(|| DatasetFacts { name: name.to_owned(), file });
    let corpus = (!entries.is_empty() || tokenizer.is_some())
        .then(|| Arc::new(Corpus::cut(entries, tokenizer.as_ref().map_or(&[], |t| t.json.as_slice()))));
    let pick = |corpus: &Arc<Corpus>| v1::Pick { corpus_id: corpus.id, sequential, streams: 1, first: 0 };
    let pick = corpus.as_ref().map(pick);
    Ok((wire(plan, words, pick), corpus))
}

/// Names of datasets that have a file.
const FILES: [&str; 4] = ["sharegpt", "jsonl", "openai-batch", "mooncake"];

fn format(name: &str) -> Option<Format> {
    match name {
        "sharegpt" => Some(Format::ShareGpt),
        "jsonl" => Some(Format::Jsonl),
        "openai-batch" => Some(Format::OpenAiBatch),
        "mooncake" => Some(Format::Mooncake),
        _ => None,
    }
}

/// The dataset's name, given or implied; what contradicts it is refused.
fn name(args: &SweepArgs) -> Result<&str, ConfigError> {
    let name = match args.dataset_name.as_deref() {
        Some(name) if crate::args::DATASETS.contains(&name) => name,
        Some(other) => {
            return Err(bad(
                "--dataset-name",
                format!("{other:?}: try {}", crate::args::DATASETS.join(", ")),
            ));
        }
        None if args.dataset_path.is_some() => {
            return Err(bad(
                "--dataset-path",
                format!("what is in it? give --dataset-name {}", FILES.join(", ")),
            ));
        }
        None if args.num_turns.is_some_and(|n| n > 1) => "sessions",
        None if args.shared_prefix_len.is_some_and(|n| n > 0) => "shared-prefix",
        None => "random",
    };
    if args.prompt.is_some() && args.dataset_name.is_some() {
        return Err(bad("--prompt", "a fixed prompt and a dataset exclude each other"));
    }
    let is_synthetic = format(name).is_none() && args.prompt.is_none();
    let synthetic = [
        ("--input-len", args.input_len.is_some()),
        ("--random-range-ratio", args.random_range_ratio.is_some()),
        ("--shared-prefix-len", args.shared_prefix_len.is_some()),
        ("--num-prefixes", args.num_prefixes.is_some()),
        ("--num-turns", args.num_turns.is_some()),
        ("--turn-delay", args.turn_delay.is_some()),
    ];
    let wrong = synthetic.iter().find(|(flag, given)| *given && !is_synthetic && *flag != "--input-len");
    let wrong = wrong.or_else(|| synthetic.first().filter(|(_, given)| *given && format(name).is_some()));
    if let Some((flag, _)) = wrong {
        return Err(bad(flag, "it is for synthetic prompts, which are not asked for"));
    }
    if args.multi_turn.unwrap_or(false) && name != "sharegpt" {
        return Err(bad(
            "--multi-turn",
            "it is for --dataset-name sharegpt; synthetic sessions have --num-turns",
        ));
    }
    Ok(name)
}

/// A flag that is about a file.
fn first_of_a_file(args: &SweepArgs) -> Option<&'static str> {
    let flags = [
        ("--dataset-path", args.dataset_path.is_some()),
        ("--dataset-order", args.dataset_order.is_some()),
        ("--dataset-errors", args.dataset_errors.is_some()),
        ("--dataset-limit", args.dataset_limit.is_some()),
    ];
    flags.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
}

fn read<'a>(
    args: &'a SweepArgs,
    plan: &Plan,
    format: Format,
    counter: Option<&TokenCounter>,
) -> Result<(&'a Path, Dataset), ConfigError> {
    let path = args.dataset_path.as_deref();
    let path = path.ok_or_else(|| bad("--dataset-path", "this dataset is a file: give its path"))?;
    if format == Format::OpenAiBatch {
        bodies_bring_their_own(args, plan)?;
    }
    for (flag, value, choices) in [
        ("--dataset-order", &args.dataset_order, ["shuffled", "sequential"]),
        ("--dataset-errors", &args.dataset_errors, ["stop", "skip"]),
    ] {
        // A plan file is not checked by the parser of flags.
        if let Some(other) = value.as_deref().filter(|value| !choices.contains(value)) {
            return Err(bad(flag, format!("{other:?}: try {}", choices.join(" or "))));
        }
    }
    if args.dataset_limit == Some(0) {
        return Err(bad("--dataset-limit", "at least one entry is needed"));
    }
    let extra_body: Option<Map<String, Value>> =
        args.extra_body.as_deref().and_then(|json| serde_json::from_str(json).ok());
    let key = if plan.endpoint_type == "chat" { "messages" } else { "prompt" };
    if extra_body.as_ref().is_some_and(|body| body.contains_key(key)) {
        return Err(bad("--extra-body", format!("it has {key}, and so has the dataset: give one of them")));
    }
    let reading = Reading {
        format,
        chat: plan.endpoint_type == "chat",
        endpoint: &plan.path,
        multi_turn: args.multi_turn.unwrap_or(false),
        output_len: args.output_len,
        default_output_len: plan.output_len,
        limit: args.dataset_limit.unwrap_or(usize::MAX),
        most_bytes: MAX_CORPUS_BYTES,
        skip_broken: args.dataset_errors.as_deref() == Some("skip"),
        counter,
        extra_body: extra_body.as_ref(),
    };
    let dataset = dataset::read(path, &reading).map_err(|e| bad("--dataset-path", e.to_string()))?;
    let talks = dataset.entries.iter().any(|e| e.turns.len() > 1);
    if talks && reading.multi_turn && !reading.chat {
        return Err(bad(
            "--multi-turn",
            "a completions endpoint takes one prompt: give --endpoint-type chat",
        ));
    }
    Ok((path, dataset))
}

/// Nothing is put into a batch's bodies silently, and nothing asked for is silently left out.
fn bodies_bring_their_own(args: &SweepArgs, plan: &Plan) -> Result<(), ConfigError> {
    let given = [
        ("--output-len", args.output_len.is_some()),
        ("--ignore-eos", args.ignore_eos == Some(true)),
        ("--temperature", args.temperature.is_some()),
        ("--top-p", plan.sampling.top_p.is_some()),
        ("--top-k", plan.sampling.top_k.is_some()),
        ("--min-p", plan.sampling.min_p.is_some()),
        ("--frequency-penalty", plan.sampling.frequency_penalty.is_some()),
        ("--presence-penalty", plan.sampling.presence_penalty.is_some()),
        ("--repetition-penalty", plan.sampling.repetition_penalty.is_some()),
        ("--stop", !plan.sampling.stop.is_empty()),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        Some((flag, _)) => {
            Err(bad(flag, "the bodies of an OpenAI batch bring their own: override them with --extra-body"))
        }
        None => Ok(()),
    }
}

fn facts(path: &Path, dataset: &Dataset) -> FileFacts {
    let turns = || dataset.entries.iter().flat_map(|entry| &entry.turns);
    let mean = |length: fn(&v1::Turn) -> u32| {
        let known: Vec<u32> = turns().map(length).filter(|n| *n > 0).collect();
        let sum: u64 = known.iter().map(|&n| u64::from(n)).sum();
        (!known.is_empty()).then(|| sum as f64 / known.len() as f64)
    };
    FileFacts {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        checksum: checksum(dataset.crc32c),
        entries: dataset.entries.len() as u64,
        turns: turns().count() as u64,
        broken_lines: dataset.broken,
        unfit_lines: dataset.unfit,
        left_out_examples: dataset.examples.clone(),
        mean_input_len: mean(|turn| turn.input_len),
        mean_output_len: mean(|turn| turn.max_tokens),
        span_ns: dataset.entries.iter().filter_map(|entry| entry.at_ns).max(),
        has_times: dataset.entries.iter().all(|entry| entry.at_ns.is_some()),
        labelled: dataset.entries.iter().all(|entry| !entry.label.is_empty()),
        order: String::new(),
    }
}

/// One line for the user about what was read from a file.
pub(crate) fn words(plan: &Plan) -> Option<String> {
    let facts = plan.dataset.as_ref()?.file.as_ref()?;
    let mut text = format!("dataset {}: {} entries", facts.name, facts.entries);
    if facts.turns > facts.entries {
        text.push_str(&format!(" of {} turns", facts.turns));
    }
    let unit = &plan.input_len_unit;
    for (what, mean, unit) in [
        ("input", facts.mean_input_len, unit.as_str()),
        ("output", facts.mean_output_len, "tokens asked for"),
    ] {
        text.push_str(&mean.map_or_else(String::new, |mean| format!(", mean {what} {mean:.1} {unit}")));
    }
    let counts = [(facts.broken_lines, "broken"), (facts.unfit_lines, "unfit")];
    let left: Vec<String> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if let Some(example) = facts.left_out_examples.first() {
        text.push_str(&format!("; lines left out: {} ({example})", left.join(", ")));
    }
    Some(text)
}

pub(crate) fn checksum(crc32c: u32) -> String {
    format!("crc32c:{crc32c:08x}")
}

fn synthetic(args: &SweepArgs, plan: &Plan, name: &str) -> Result<SyntheticPlan, ConfigError> {
    let is_sessions = name == "sessions";
    let synthetic = SyntheticPlan {
        random_range_ratio: args.random_range_ratio.unwrap_or(0.0),
        shared_prefix_len: args.shared_prefix_len.unwrap_or(0),
        num_prefixes: args.num_prefixes.unwrap_or(1),
        num_turns: args.num_turns.unwrap_or(if is_sessions { USUAL_TURNS } else { 1 }),
        turn_delay_ns: args.turn_delay.map_or(0, |span| span.0),
    };
    if !(0.0..1.0).contains(&synthetic.random_range_ratio) {
        return Err(bad("--random-range-ratio", "a spread lies between 0 and 1, such as 0.2"));
    }
    if name == "shared-prefix" && synthetic.shared_prefix_len == 0 {
        return Err(bad("--shared-prefix-len", "how long is the beginning that prompts share? try 1024"));
    }
    if synthetic.num_prefixes == 0 || (synthetic.num_prefixes > 1 && synthetic.shared_prefix_len == 0) {
        return Err(bad("--num-prefixes", "at least 1, and with --shared-prefix-len"));
    }
    let turns = synthetic.num_turns;
    if !(1..=MOST_TURNS).contains(&turns) || (is_sessions && turns == 1) {
        return Err(bad("--num-turns", format!("a session has 2 to {MOST_TURNS} turns")));
    }
    if turns == 1 && synthetic.turn_delay_ns > 0 {
        return Err(bad("--turn-delay", "without turns there is nothing between them: give --num-turns"));
    }
    if turns > 1 && plan.endpoint_type != "chat" {
        return Err(bad("--num-turns", "a completions endpoint takes one prompt: give --endpoint-type chat"));
    }
    let each = f64::from(plan.input_len) * (1.0 + synthetic.random_range_ratio);
    let longest = f64::from(synthetic.shared_prefix_len) + each * f64::from(turns);
    if longest > f64::from(MAX_INPUT_WORDS) {
        return Err(bad("--input-len", format!("prompts of {longest} are longer than {MAX_INPUT_WORDS}")));
    }
    Ok(synthetic)
}

fn sampling(args: &SweepArgs) -> Result<SamplingPlan, ConfigError> {
    let within = |flag, value: Option<f64>, low: f64, high: f64| match value {
        Some(x) if !(low..=high).contains(&x) => Err(bad(flag, format!("it lies between {low} and {high}"))),
        value => Ok(value),
    };
    Ok(SamplingPlan {
        top_p: within("--top-p", args.top_p, 0.0, 1.0)?,
        top_k: match args.top_k {
            Some(k) if k < -1 => return Err(bad("--top-k", "a number of tokens, or -1 (or 0) for all")),
            top_k => top_k,
        },
        min_p: within("--min-p", args.min_p, 0.0, 1.0)?,
        frequency_penalty: within("--frequency-penalty", args.frequency_penalty, -2.0, 2.0)?,
        presence_penalty: within("--presence-penalty", args.presence_penalty, -2.0, 2.0)?,
        repetition_penalty: within("--repetition-penalty", args.repetition_penalty, 0.0, 10.0)?,
        stop: match args.stop.iter().any(String::is_empty) {
            true => return Err(bad("--stop", "an empty text ends every answer")),
            false => args.stop.clone(),
        },
    })
}

fn label(args: &SweepArgs) -> Result<Option<String>, ConfigError> {
    let fine = |label: &String| {
        let n = label.chars().count();
        (1..=MAX_LABEL).contains(&n) && !label.chars().any(char::is_control)
    };
    match &args.prompt_label {
        Some(label) if !fine(label) => Err(bad(
            "--prompt-label",
            format!("a short word, such as normal or refusal (at most {MAX_LABEL} characters)"),
        )),
        label => Ok(label.clone()),
    }
}

fn wire(plan: &Plan, words: Vec<String>, pick: Option<v1::Pick>) -> v1::Workload {
    let (sampling, synthetic) = (plan.sampling.clone(), &plan.synthetic);
    v1::Workload {
        prompt: plan.prompt.clone().unwrap_or_default(),
        input_words: plan.input_len,
        input_chars: 0,
        max_tokens: plan.output_len,
        ignore_eos: plan.ignore_eos,
        temperature: plan.temperature,
        seed: plan.seed,
        label: plan.prompt_label.clone().unwrap_or_default(),
        sampling: Some(v1::Sampling {
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            frequency_penalty: sampling.frequency_penalty,
            presence_penalty: sampling.presence_penalty,
            repetition_penalty: sampling.repetition_penalty,
            stop: sampling.stop,
        }),
        synthetic: Some(v1::Synthetic {
            range_ratio: synthetic.random_range_ratio,
            prefix_words: synthetic.shared_prefix_len,
            prefixes: synthetic.num_prefixes,
            turns: synthetic.num_turns,
            turn_delay_ns: synthetic.turn_delay_ns,
            words,
        }),
        pick,
    }
}
