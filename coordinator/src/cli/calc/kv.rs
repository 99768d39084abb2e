//! `tailcliff kv`.

use serde_json::{Value, json};

use super::{CalcError, RECKONED, conclude};
use crate::args::calc::KvArgs;
use crate::calc::kv::{Crossing, KvShape, crossing};
use crate::calc::measured::{self, Measured, MeasuredLevel};
use crate::calc::{gib_words, model, summary, table, weights};
use crate::report::text::number;

pub(crate) fn kv(args: &KvArgs) -> i32 {
    conclude(reckon(args).map(|sheet| (sheet.text(), sheet.json())), args.json)
}

/// All that a calculation rests on.
struct Sheet {
    shape: KvShape,
    shape_words: String,
    /// Tokens of a user; of a run the mean, which is no whole number.
    tokens: f64,
    users: u64,
    /// 0 where nobody knows.
    weights_gib: f64,
    lines_gib: Vec<f64>,
    run: Option<Measured>,
    notes: Vec<String>,
}

fn reckon(args: &KvArgs) -> Result<Sheet, CalcError> {
    let mut notes = Vec::new();
    let bytes = args.bytes.unwrap_or(summary::BYTES);
    let mut weights_gib = args.weights;
    let (shape, shape_words) = match (&args.config, args.kv_heads.zip(args.head_dim)) {
        (Some(path), _) => {
            let model = model::read(path)?;
            let kv = KvShape { bytes_per_value: args.bytes.unwrap_or(model.kv.bytes_per_value), ..model.kv };
            notes.extend(model.notes);
            if weights_gib.is_none() {
                // At 16 bits, as most servers load it; a quantised one says --weights.
                weights_gib = Some(model.params.map_or(0.0, |params| weights::gib(params, 2.0)));
                notes.push(match model.params {
                    Some(params) => format!(
                        "weights of {:.2} billion parameters at 2 bytes; --weights for others",
                        params / 1e9
                    ),
                    None => format!(
                        "weights of a {:?} are not counted here and taken as 0: give --weights",
                        model.kind
                    ),
                });
            }
            if let Some(most) =
                model.max_tokens.filter(|&most| args.seq_len.is_some_and(|asked| asked > most))
            {
                notes.push(format!("the model was made for {most} tokens at most"));
            }
            (kv, model.kv_words)
        }
        (None, Some((kv_heads, head_dim))) => {
            let words = format!("2 × {kv_heads} KV heads × {head_dim} values");
            (KvShape::grouped(args.layers, kv_heads, head_dim, bytes), words)
        }
        (None, None) => {
            let words = format!("2 × {} values", args.hidden);
            (KvShape::classic(args.layers, args.hidden, bytes), words)
        }
    };
    let run = args.run.as_deref().map(measured::read).transpose()?;
    let of_run = run.as_ref().and_then(Measured::tokens_per_request);
    if let (Some(run), None, None) = (&run, of_run, args.seq_len) {
        notes.push(format!(
            "{} tells no tokens of its requests: {} are taken; --seq-len",
            run.name,
            summary::SEQ_LEN
        ));
    }
    let tokens = args.seq_len.map(|tokens| tokens as f64).or(of_run).unwrap_or(summary::SEQ_LEN as f64);
    let lines_gib = lines(args, run.as_ref(), &mut notes);
    let weights_gib = weights_gib.unwrap_or(summary::WEIGHTS_GIB);
    Ok(Sheet { shape, shape_words, tokens, users: args.users, weights_gib, lines_gib, run, notes })
}

/// As given, or the memory of the cards that a run saw, or the two of the drawings.
fn lines(args: &KvArgs, run: Option<&Measured>, notes: &mut Vec<String>) -> Vec<f64> {
    if !args.line.is_empty() {
        return args.line.clone();
    }
    let mut seen: Vec<f64> = Vec::new();
    for (name, gib, simulated) in run.into_iter().flat_map(|run| &run.gpus) {
        if !seen.contains(gib) {
            seen.push(*gib);
            let label = if *simulated { ", SIMULATED" } else { "" };
            notes.push(format!("the line of {} is a {name}'s that the run saw{label}", gib_words(*gib)));
        }
    }
    if seen.is_empty() { summary::LINES_GIB.to_vec() } else { seen }
}

impl Sheet {
    fn per_user_gib(&self) -> f64 {
        self.shape.gib_per_user(self.tokens)
    }

    fn text(&self) -> String {
        let (per_user, kv) = (self.per_user_gib(), self.shape.gib(self.users as f64, self.tokens));
        let layers = self.shape.layers + self.shape.windowed.map_or(0, |(layers, _)| layers);
        let mut out = format!(
            "KV cache, {RECKONED}: {layers} layers × {} × {} bytes = {} a token\n",
            self.shape_words,
            self.shape.bytes_per_value,
            gib_words(self.shape.gib_per_user(1.0)),
        );
        out.push_str(&format!(
            "{:.0} tokens: {} per user\n{} users: {}, and {} of weights: {}\n\n",
            self.tokens,
            gib_words(per_user),
            self.users,
            gib_words(kv),
            gib_words(self.weights_gib),
            gib_words(kv + self.weights_gib),
        ));
        for &line in &self.lines_gib {
            let words = crossing(line, self.weights_gib, per_user).words();
            out.push_str(&format!("line of {}: {words}\n", gib_words(line)));
        }
        if let Some(run) = &self.run {
            out.push_str(&self.overlay(run));
        }
        self.notes.iter().for_each(|note| out.push_str(&format!("note: {note}\n")));
        out.push_str("A server keeps part of a card for other things, and lets equal prefixes share.\n");
        out
    }

    /// Level by level, what was in flight, and the measured knee beside the line.
    fn overlay(&self, run: &Measured) -> String {
        let axis = if run.is_open { "req/s" } else { "concurrency" };
        let mut rows =
            vec![[axis, "in flight", "tokens each", "KV GiB", "with weights"].map(str::to_owned).to_vec()];
        let dash = |x: Option<f64>, digits: usize| x.map_or("–".to_owned(), |x| format!("{x:.digits$}"));
        for level in &run.levels {
            let kv = self.kv_of(level);
            rows.push(vec![
                level.load.to_string(),
                dash(level.users, 1),
                dash(level.tokens_per_request, 0),
                dash(kv, 2),
                dash(kv.map(|kv| kv + self.weights_gib), 2),
            ]);
        }
        let mut words = String::new();
        match run.capacity() {
            Some(capacity) => {
                words.push_str(&format!("measured: {} ({})\n", capacity.words, capacity.key));
                for &line in &self.lines_gib {
                    words.push_str(&self.beside(line, capacity.users));
                }
            }
            None => words.push_str("measured: no level tells how many were in flight\n"),
        }
        format!(
            "\nover {}, each request at its full length, if all are in the batch\n{}{words}",
            run.name,
            table(&rows)
        )
    }

    /// Where a line is crossed by the formula, against where the run has its limit.
    fn beside(&self, line_gib: f64, users: f64) -> String {
        match crossing(line_gib, self.weights_gib, self.per_user_gib()) {
            Crossing::User(first) => {
                let times = first as f64 / users;
                format!("line of {}: user {first} is {times:.1} × that\n", gib_words(line_gib))
            }
            Crossing::Weights | Crossing::Never => String::new(),
        }
    }

    fn kv_of(&self, level: &MeasuredLevel) -> Option<f64> {
        Some(self.shape.gib(level.users?, level.tokens_per_request?))
    }

    fn json(&self) -> Value {
        let per_user = self.per_user_gib();
        let kv = self.shape.gib(self.users as f64, self.tokens);
        let line = |line: &f64| {
            let crossing = crossing(*line, self.weights_gib, per_user);
            json!({ "line_gib": line, "first_user_over": crossing.user(), "words": crossing.words() })
        };
        let level = |level: &MeasuredLevel| {
            json!({
                "load": number(Some(level.load), 6),
                "in_flight": number(level.users, 6),
                "tokens_per_request": number(level.tokens_per_request, 3),
                "kv_gib": number(self.kv_of(level), 6),
            })
        };
        json!({
            "bytes_per_token": number(Some(self.shape.gib_per_user(1.0) * crate::calc::GIB), 3),
            "seq_len": number(Some(self.tokens), 3),
            "gib_per_user": number(Some(per_user), 6),
            "users": self.users,
            "kv_gib": number(Some(kv), 6),
            "weights_gib": number(Some(self.weights_gib), 6),
            "total_gib": number(Some(kv + self.weights_gib), 6),
            "lines": self.lines_gib.iter().map(line).collect::<Vec<_>>(),
            "notes": self.notes,
            "measured": self.run.as_ref().map(|run| json!({
                "run": run.name,
                "loop": if run.is_open { "open" } else { "closed" },
                "levels": run.levels.iter().map(level).collect::<Vec<_>>(),
                "users_at_capacity": number(run.capacity().map(|c| c.users), 6),
                "users_from": run.capacity().map(|c| c.key),
            })),
        })
    }
}
