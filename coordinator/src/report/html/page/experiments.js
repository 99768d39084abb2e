// Experiments of another shape than a line of loads: latency without load, over the sizes of prompt and answer, and what
// failed under overload and came after. Their figures are exact, of few requests each.

const BASELINE = [["e2el_ms", "end to end", "ms"], ["ttft_ms", "time to first token", "ms"], ["tpot_ms", "time per output token", "ms"], ["tokens_per_s", "output tokens per second", "tokens/s"]];

function drawBaseline() {
  const found = SUMMARY.baseline;
  if (!found) return;
  const left = `${found.not_completed ? ` ${found.not_completed} requests did not complete.` : ""}${found.voided ? ` It does not count: ${found.voided}.` : ""}`;
  const here = section("baseline", "Latency without load", `One request at a time. Figures: ${found.figures}.${left}`);
  const known = BASELINE.filter(([key]) => has(found[key]));
  const format = (unit) => (unit === "ms" ? milliseconds : digits);
  const columns = ["n", "min", "p25", "p50", "mean", "p75", "p95", "p99", "max"];
  here.append(table(["", ...columns, "spread"], known.map(([key, name, unit]) => [name, found[key].n, ...columns.slice(1).map((column) => format(unit)(found[key][column])), has(found[key].spread) ? `${digits(found[key].spread * 100, 3)} %` : "—"]), "Baseline"));
  figure(here, {
    id: "plot-baseline", title: "How requests are spread", height: 300, label: "Histogram of the baseline's requests",
    controls: [{ name: "key", label: "of", options: known.map(([key, name]) => [key, name]) }],
    draw: ({ key }, style) => {
      const unit = known.find(([known]) => known === key)?.[2];
      const bins = list(found[key]?.bins);
      if (!bins.length) return null;
      const words = bins.map(({ from, to, n }) => `${format(unit)(from)} to ${format(unit)(to)}: ${n} requests`);
      return { traces: [{ type: "bar", x: bins.map(({ from, to }) => (from + to) / 2), y: bins.map(({ n }) => n), width: bins.map(({ from, to }) => to - from || null), marker: { color: style.series[0], line: { color: style.back, width: 1 } }, text: words, textposition: "none", hovertemplate: "%{text}<extra></extra>" }], layout: { xaxis: axis(style, unit), yaxis: axis(style, "requests", { rangemode: "tozero" }), showlegend: false } };
    },
  });
}

/** Latency by prompt length and output length; a cell that does not count, or has no answer, is a hole. */
function drawGrid() {
  const found = SUMMARY.grid;
  if (!found) return;
  const here = section("grid", "Prompt and output length", `Figures: ${found.figures}.`);
  const { prompt_chars: prompts, max_tokens: outputs } = found;
  const cellOf = (prompt, output) => list(found.cells).find((cell) => cell.prompt_chars === prompt && cell.max_tokens === output);
  const why = (cell) => (!has(cell?.level) ? "not driven" : cell.voided ? "void" : "none completed");
  figure(here, {
    id: "plot-grid", title: "Token budget", height: 380, label: "Heat map of latency by prompt length and output length",
    caption: "End to end, by characters of the prompt and max_tokens.", controls: [{ name: "key", label: "percentile", options: [["p50", "p50"], ["p95", "p95"]], value: "p95" }],
    empty: "No cell has a figure.",
    draw: ({ key }, style) => {
      const z = found[`${key}_e2el_ms`];
      if (!z.flat().some(has)) return null;
      const [x, y] = [outputs.map((n) => `${n} tokens`), prompts.map((n) => `${n} chars`)];
      const trace = { type: "heatmap", x, y, z, text: z.map((row) => row.map((ms) => (has(ms) ? milliseconds(ms) : ""))), texttemplate: "%{text}", hovertemplate: "%{y}, %{x}: %{text}<extra></extra>", hoverongaps: false, colorscale: style.dark ? [[0, "#1d3b57"], [1, "#7a3a2c"]] : [[0, "#e3f0fa"], [1, "#f4a582"]], colorbar: { title: { text: "ms" }, thickness: 12 }, textfont: { color: style.ink } };
      const holes = z.flatMap((row, at) => row.flatMap((ms, of) => (has(ms) ? [] : [{ x: x[of], y: y[at], text: why(cellOf(prompts[at], outputs[of])), showarrow: false, font: { color: style.quiet } }])));
      return { traces: [trace], layout: { annotations: holes, xaxis: axis(style, "max_tokens", { type: "category" }), yaxis: axis(style, "", { type: "category" }) } };
    },
    table: () => [["prompt", "max_tokens", "completed", "not completed", "p50", "p95", "TTFT p50", "TTFT p95", "tokens, mean", ""], list(found.cells).map((cell) => [`${cell.prompt_chars} chars`, cell.max_tokens, cell.completed, cell.not_completed, ...["p50_e2el_ms", "p95_e2el_ms", "p50_ttft_ms", "p95_ttft_ms"].map((key) => milliseconds(cell[key])), digits(cell.mean_output_tokens), cell.voided ?? (has(cell.level) ? "" : "not driven")])],
  });
  figure(here, {
    id: "plot-grid-lines", title: "Latency by output length", height: 340, label: "Latency by max_tokens, one line per prompt length", caption: "p95 end to end, one line per prompt length.", empty: "No cell has a figure.",
    draw: (_, style) => (found.p95_e2el_ms.flat().some(has) ? { traces: prompts.map((prompt, nth) => ({ name: `${prompt} chars`, x: outputs, y: found.p95_e2el_ms[nth], mode: "lines+markers", line: { color: style.series[nth % 6], dash: ["solid", "dash", "dot"][nth % 3] } })), layout: { xaxis: axis(style, "max_tokens", { tickvals: outputs }), yaxis: axis(style, "ms", { rangemode: "tozero" }) } } : null),
  });
}

const outOf = (rate) => (has(rate) ? `${digits(rate * 100, 3)} %` : "—");

function drawOverload() {
  const found = SUMMARY.overload;
  if (!found) return;
  const here = section("overload", "Overload");
  const words = found.recovered === true ? "the server recovered" : found.recovered === false ? "the server did not recover" : "whether the server recovered is not known";
  here.append(el("p", null, found.words || words));
  const usual = found.baseline;
  here.append(el("p", { class: "quiet" }, usual ? `Usual, one request at a time: p95 ${milliseconds(usual.p95_e2el_ms)} end to end, of ${usual.n}.` : "What is usual is not known: nothing of the baseline completed."));
  const rungs = list(found.rungs);
  const rungName = (rung) => `${rung.concurrency} in flight, timeout ${digits(rung.request_timeout_s)} s`;
  const kinds = [...new Set(rungs.flatMap((rung) => list(rung.failures).map(({ class: kind }) => kind)))];
  figure(here, {
    id: "plot-overload", title: "What became of the requests", height: 380, label: "Requests of every rung of the overload: completed, and failed by kind",
    empty: "No rung was driven.",
    draw: (_, style) => {
      if (!rungs.length) return null;
      const x = rungs.map(rungName);
      const bar = (name, at, color, value) => ({ type: "bar", name: plain(name), x, y: rungs.map(value), marker: { color, pattern: hatched(style, ["", "/", "x", ".", "-", "+"][at % 6]) } });
      const failed = kinds.map((kind, at) => bar(kind, at + 1, [style.bad, style.warn, ...style.series][at % (2 + style.series.length)], (rung) => list(rung.failures).find((failure) => failure.class === kind)?.count ?? 0));
      return { traces: [bar("completed", 0, style.good, (rung) => rung.completed), ...failed], layout: { barmode: "stack", legend: above(style), xaxis: categories(style), yaxis: axis(style, "requests", { rangemode: "tozero" }) } };
    },
  });
  here.append(table(["rung", "completed", "failed", "incomplete", "unreported", "error rate", "p95 end to end", "what failed", ""], rungs.map((rung) => [rungName(rung), rung.completed, rung.failed, rung.incomplete, rung.unreported, outOf(rung.error_rate), milliseconds(rung.p95_e2el_ms), list(rung.failures).map(({ class: kind, count }) => `${count} × ${kind}`).join(", ") || "nothing", rung.voided ? `does not count: ${rung.voided}` : ""]), "Rungs of the overload"));
  const failures = list(found.failures);
  if (failures.length) {
    here.append(el("h3", null, "Failures by kind"), table(["kind", "count", "another try", "an example"], failures.map((failure) => [failure.class, failure.count, failure.another_try, failure.sample ?? "—"]), "Failures of the overload"));
  }
  const verdict = (recovered) => (recovered === true ? "yes" : recovered === false ? "NO" : "not known");
  here.append(el("h3", null, "Afterwards"), table(["after timeout", "recovered", "within", "first probe after", "probes", "of these good", "words"], list(found.recoveries).map((after) => [`${digits(after.request_timeout_s)} s`, verdict(after.recovered), has(after.after_s) ? `${digits(after.after_s)} s` : "—", has(after.first_probe_after_s) ? `${digits(after.first_probe_after_s)} s` : "—", after.probes, after.good, after.words]), "Recoveries"));
}
