//! Calculators for whoever plans a server: memory of a KV cache, memory of weights, cost per concurrent user. Pure
//! arithmetic, usable without a run; a stored run can be laid over them. What they say is reckoned, not measured, and
//! every output says so.

pub mod cost;
pub mod kv;
pub mod measured;
pub mod model;
pub mod summary;
pub mod weights;

#[cfg(test)]
mod tests;

/// Bytes of a GiB: cards are sold in GB and hold GiB.
pub const GIB: f64 = (1u64 << 30) as f64;

/// A figure of GiB for people: one decimal, more where that would say 0.
pub fn gib_words(gib: f64) -> String {
    match gib {
        x if x == 0.0 || x >= 0.95 => format!("{x:.1} GiB"),
        x if x >= 0.000_95 => format!("{:.1} MiB", x * 1_024.0),
        x => format!("{:.1} KiB", x * 1_024.0 * 1_024.0),
    }
}

/// Dollars for people: thousands apart, cents where there are few.
pub fn usd_words(usd: f64) -> String {
    if usd >= 100.0 { format!("${}", grouped(&format!("{usd:.0}"))) } else { format!("${usd:.2}") }
}

/// Digits with a comma each three.
pub fn grouped(digits: &str) -> String {
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Rows as a table: the first row is the header; numbers to the right, as all columns but the first are.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|i| width(i).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cell = |(i, cell): (usize, &String)| {
            let pad = " ".repeat(widths[i].saturating_sub(cell.chars().count()));
            if i == 0 { format!("{cell}{pad}") } else { format!("{pad}{cell}") }
        };
        let cells: Vec<String> = row.iter().enumerate().map(cell).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}
