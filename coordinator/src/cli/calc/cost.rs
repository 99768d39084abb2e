//! `tailcliff cost`.

use serde_json::{Value, json};

use super::{CalcError, bad, conclude};
use crate::args::calc::CostArgs;
use crate::calc::cost::{Card, per, usd_per_million_tokens};
use crate::calc::measured::{self, Capacity};
use crate::calc::{summary, table, usd_words};
use crate::report::text::number;

pub(crate) fn cost(args: &CostArgs) -> i32 {
    conclude(reckon(args), args.json)
}

/// One card: what it costs, how many it serves, and who says so.
struct Row {
    price_usd: Option<f64>,
    per_hour_usd: Option<f64>,
    users: f64,
    measured: Option<(String, Capacity)>,
}

impl Row {
    fn per_user(&self) -> Option<f64> {
        Card { price_usd: self.price_usd?, users: self.users }.usd_per_user()
    }

    fn per_user_hour(&self) -> Option<f64> {
        per(self.per_hour_usd?, self.users)
    }

    fn per_million_tokens(&self) -> Option<f64> {
        let (_, capacity) = self.measured.as_ref()?;
        usd_per_million_tokens(self.per_hour_usd?, capacity.output_tokens_per_s?)
    }

    fn json(&self) -> Value {
        let capacity = self.measured.as_ref().map(|(_, capacity)| capacity);
        json!({
            "price_usd": self.price_usd,
            "price_usd_per_hour": self.per_hour_usd,
            "concurrency": number(Some(self.users), 6),
            "usd_per_concurrent_user": number(self.per_user(), 6),
            "usd_per_concurrent_user_hour": number(self.per_user_hour(), 9),
            "usd_per_million_output_tokens": number(self.per_million_tokens(), 6),
            "measured_run": self.measured.as_ref().map(|(name, _)| name),
            "measured_key": capacity.map(|c| c.key),
            "measured_words": capacity.map(|c| &c.words),
        })
    }
}

fn reckon(args: &CostArgs) -> Result<(String, Value), CalcError> {
    let rows = if args.run.is_empty() { given(args)? } else { measured(args)? };
    let is_hourly = rows.iter().any(|row| row.per_hour_usd.is_some());
    let mut titles = vec!["price", "users at once", "per user"];
    if is_hourly {
        titles.extend(["per hour", "per user and hour", "per M output tokens"]);
    }
    let usd = |usd: Option<f64>| usd.map_or("–".to_owned(), usd_words);
    let cells = |row: &Row| {
        let users = format!("{:.1}", row.users);
        let mut cells =
            vec![usd(row.price_usd), users.trim_end_matches(".0").to_owned(), usd(row.per_user())];
        if is_hourly {
            // Cents of cents: a token costs little.
            let fine = |usd: Option<f64>| usd.map_or("–".to_owned(), |usd| format!("${usd:.4}"));
            cells.extend([usd(row.per_hour_usd), fine(row.per_user_hour()), fine(row.per_million_tokens())]);
        }
        cells
    };
    let header = titles.into_iter().map(str::to_owned).collect();
    let mut text = table(&std::iter::once(header).chain(rows.iter().map(cells)).collect::<Vec<_>>());
    for (name, capacity) in rows.iter().filter_map(|row| row.measured.as_ref()) {
        text.push_str(&format!("users at once of {name}: measured, {} ({})\n", capacity.words, capacity.key));
    }
    if args.run.is_empty() {
        text.push_str("users at once as given, not measured: --run RUN_DIR takes them from a run\n");
    }
    Ok((text, json!({ "cards": rows.iter().map(Row::json).collect::<Vec<_>>() })))
}

fn given(args: &CostArgs) -> Result<Vec<Row>, CalcError> {
    let usual = || summary::CARDS.into_iter();
    let (prices, users): (Vec<f64>, Vec<f64>) = match (args.price.is_empty(), args.concurrency.is_empty()) {
        (true, true) => usual().unzip(),
        (false, false) => (args.price.clone(), args.concurrency.clone()),
        (true, false) => {
            return Err(bad("--price", "give a price for each --concurrency: --price 12000,25000"));
        }
        (false, true) => {
            return Err(bad(
                "--concurrency",
                "give users at once for each --price, such as 5,20, or a --run that measured them",
            ));
        }
    };
    if prices.len() != users.len() {
        let reason = format!("{} numbers of users for {} prices: give as many", users.len(), prices.len());
        return Err(bad("--concurrency", reason));
    }
    let row =
        |(price_usd, users)| Row { price_usd: Some(price_usd), per_hour_usd: None, users, measured: None };
    Ok(prices.into_iter().zip(users).map(row).collect())
}

fn measured(args: &CostArgs) -> Result<Vec<Row>, CalcError> {
    let runs = args.run.len();
    if args.price.is_empty() && args.gpu_price_per_hour.is_empty() {
        return Err(bad("--run", "what did it run on? give --price or --gpu-price-per-hour"));
    }
    for (flag, given) in
        [("--price", args.price.len()), ("--gpu-price-per-hour", args.gpu_price_per_hour.len())]
    {
        if given > 0 && given != runs {
            return Err(bad(flag, format!("{given} prices for {runs} runs: give as many")));
        }
    }
    let row = |(i, dir): (usize, &std::path::PathBuf)| {
        let measured = measured::read(dir)?;
        let name = measured.name.clone();
        let unknown = || {
            bad(
                "--run",
                format!("{name} does not tell how many users were served at once: give --concurrency"),
            )
        };
        let capacity = measured.capacity().ok_or_else(unknown)?;
        Ok(Row {
            price_usd: args.price.get(i).copied(),
            per_hour_usd: args.gpu_price_per_hour.get(i).copied(),
            users: capacity.users,
            measured: Some((measured.name, capacity)),
        })
    };
    args.run.iter().enumerate().map(row).collect()
}
