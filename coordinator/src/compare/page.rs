//! A comparison as one HTML page that needs nothing else: curves of both runs over one another, and every figure.

use super::text::{change, conclusion, left_out};
use super::{Comparison, Finding, Row, Verdict, plot};
use crate::report::text::markup;

const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#5f6b7a;--line:#d9dee5;--a:#0b6bcb;--b:#c2410c;--good:#15803d;--bad:#b91c1c}\
@media(prefers-color-scheme:dark){:root{--bg:#14171c;--fg:#e6e9ee;--dim:#98a3b3;--line:#2f3640;--a:#63b3ff;--b:#ff9d5c;--good:#4ade80;--bad:#ff7b72}}\
body{margin:0 auto;padding:1rem;max-width:70rem;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}\
h1{font-size:1.25rem}h2{font-size:1.05rem;margin-top:2rem}.plots{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(26rem,100%),1fr))}\
svg{width:100%;height:auto;border:1px solid var(--line);border-radius:6px}svg text{fill:var(--dim);font:12px system-ui,sans-serif}svg .t{fill:var(--fg);font-weight:600}\
.y{text-anchor:end}.x{text-anchor:middle}.g{stroke:var(--line)}.line{fill:none;stroke-width:2}.line.a,.bar.a{stroke:var(--a)}.line.b,.bar.b{stroke:var(--b);stroke-dasharray:5 3}.bar.b{stroke-dasharray:none}\
.band{opacity:.16}.band.a,.dot.a{fill:var(--a)}.band.b,.dot.b{fill:var(--b)}\
.key{display:inline-block;width:.8em;height:.8em;border-radius:50%;margin-right:.4em}.key.a{background:var(--a)}.key.b{background:var(--b)}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.2rem .7rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}\
td:first-child,td:nth-child(2),th:first-child,th:nth-child(2){text-align:left}.facts td{text-align:left;white-space:normal;overflow-wrap:anywhere}\
.worse{color:var(--bad);font-weight:600}.better{color:var(--good);font-weight:600}.dim{color:var(--dim)}";

/// The page.
pub fn html(of: &Comparison) -> String {
    let (a, b) = (markup(&of.names.0), markup(&of.names.1));
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\"><meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\"><title>{a} against {b}</title><style>{STYLE}</style></head>\
         <body>\n<h1>{}</h1>\n<p><span class=\"key a\"></span>A: {a} &nbsp; <span class=\"key b\"></span>B: {b}</p>\n",
        markup(&conclusion(of))
    );
    for line in &of.fit.refusals {
        out +=
            &format!("<p class=\"worse\">not comparable, and compared all the same: {}</p>\n", markup(line));
    }
    out += "<div class=\"plots\">";
    for metric in ["throughput", "p95_e2e", "p95_ttft", "p95_tpot", "goodput", "error_rate"] {
        let metric = super::METRICS.iter().find(|m| m.name == metric);
        // Rungs of an experiment have no axis in common.
        let metric = metric.filter(|_| of.rows.iter().all(|row| row.place.cell.is_none()));
        out += &metric.and_then(|metric| plot::draw(of, metric)).unwrap_or_default();
    }
    out += "</div>\n<p class=\"dim\">Bands and bars: 95 % by block bootstrap within each run. They speak of what varied within the \
            runs, and of nothing that differs from one start of a server to the next.</p>\n";
    out += &figures(of);
    for line in left_out(of) {
        out += &format!("<p>{}</p>\n", markup(&line));
    }
    out += "<h2>Knee, cliff, SLO</h2>\n<div class=\"wide\"><table class=\"facts\">";
    for (what, a, b) in &of.places {
        out += &format!("<tr><td>{what} of A</td><td>{}</td></tr>", markup(a));
        out += &format!("<tr><td>{what} of B</td><td>{}</td></tr>\n", markup(b));
    }
    out += "</table></div>\n";
    out += &circumstances(of);
    out + "</body></html>\n"
}

fn figures(of: &Comparison) -> String {
    let mut out = "<h2>Figures</h2>\n<div class=\"wide\"><table><tr><th>load</th><th>figure</th><th>A</th><th>B</th><th>change [95 %]</th>\
                   <th>verdict</th></tr>\n"
        .to_owned();
    for row in &of.rows {
        row.findings.iter().filter(|f| f.a.or(f.b).is_some()).for_each(|f| out += &line(row, f));
    }
    out + "</table></div>\n"
}

fn line(row: &Row, f: &Finding) -> String {
    let side = |of: Option<super::Estimate>| of.map_or("–".to_owned(), |e| f.metric.words(e.value));
    let class = match f.verdict {
        Verdict::Worse => "worse",
        Verdict::Better => "better",
        Verdict::Same | Verdict::Unknown => "dim",
    };
    let name = if f.gate { format!("<b>{}</b>", f.metric.name) } else { f.metric.name.to_owned() };
    format!(
        "<tr><td>{}</td><td>{name}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"{class}\">{}</td></tr>\n",
        markup(&row.place.name()),
        side(f.a),
        side(f.b),
        change(f, true),
        f.verdict.as_str()
    )
}

fn circumstances(of: &Comparison) -> String {
    let mut out = "<h2>Circumstances</h2>\n".to_owned();
    for line in &of.fit.cautions {
        out += &format!("<p>caution: {}</p>\n", markup(line));
    }
    if of.environment.is_empty() {
        return out + "<p>nothing differs in what is known of the environment</p>\n";
    }
    out += "<div class=\"wide\"><table class=\"facts\"><tr><td>fact</td><td>A</td><td>B</td></tr>\n";
    for d in &of.environment {
        out += &format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td></tr>\n",
            markup(&d.fact),
            markup(&d.a),
            markup(&d.b)
        );
    }
    out + "</table></div>\n"
}
