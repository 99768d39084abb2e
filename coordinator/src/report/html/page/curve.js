// The curve over load, the distributions, and the errors.

function drawCurve() {
  const here = section("curve", "Latency and throughput over load", "Bands are 95 % intervals. A thin level, of fewer than 20 completed requests, is a hollow circle on the line. A level whose client was the limit is a hollow diamond, one that is void a cross: neither is on the line, since neither is the server's figure.");
  figure(here, {
    id: "plot-latency", title: "Latency", height: 430,
    label: "Latency percentiles over load with 95 % bands, knee and cliff marked",
    caption: "Percentiles of the merged histograms; the dashed line is the knee, the dotted one the cliff, each with its interval where one was found.",
    controls: [{ name: "metric", label: "of", options: METRICS, value: "e2el" }, { name: "scale", label: "scale", options: [["log", "logarithmic"], ["linear", "linear"]] }],
    draw: ({ metric, scale }, style) => {
      const traces = PERCENTILES.flatMap(([key, name], at) => banded(name, style.series[at], ["solid", "dash", "dot"][at], (level) => level[`${key}_${metric}_ms`], (level) => level[`${key}_${metric}_ms_ci`], milliseconds));
      if (!traces.some((trace) => trace.y.length)) return null;
      return { traces, layout: { ...(isLine ? {} : { legend: above(style) }), xaxis: loadAxis(style), yaxis: scale === "log" ? logMilliseconds(style, traces.flatMap((trace) => trace.y)) : axis(style, "ms", { rangemode: "tozero" }), hovermode: "closest", ...marks(style) } };
    },
    table: ({ metric }) => [["level", "verdict", ...PERCENTILES.flatMap(([, name]) => [name, "95 %"])], LAST.map((level) => [nameOf(level), verdictOf(level), ...PERCENTILES.flatMap(([key]) => [milliseconds(level[`${key}_${metric}_ms`]), ci(level[`${key}_${metric}_ms_ci`], milliseconds)])])],
  });
  figure(here, {
    id: "plot-throughput", title: "Throughput", height: 380,
    label: "Throughput over load with 95 % bands, knee and cliff marked",
    caption: "Of completed requests only; failures have their own figures below.",
    controls: [{ name: "of", label: "in", options: [["output_throughput", "output tokens per second"], ["request_throughput", "requests per second"], ["total_token_throughput", "all tokens per second"], ["request_goodput", "requests per second within the SLO"]] }],
    empty: "not measured: no level has this figure",
    draw: ({ of }, style) => {
      const traces = banded("throughput", style.series[3], "solid", (level) => level[of], (level) => level[`${of}_ci`], (value) => digits(value));
      if (!traces.some((trace) => trace.y.length)) return null;
      return { traces, layout: { xaxis: loadAxis(style), yaxis: axis(style, of === "request_throughput" || of === "request_goodput" ? "requests/s" : "tokens/s", { rangemode: "tozero" }), showlegend: false, ...marks(style) } };
    },
    table: () => [["level", "requests/s", "95 %", "output tokens/s", "95 %", "window"], LAST.map((level) => [nameOf(level), digits(level.request_throughput), ci(level.request_throughput_ci, digits), digits(level.output_throughput), ci(level.output_throughput_ci, digits), level.throughput_window ?? "—"])],
  });
  drawParts(here);
}

const ci = (band, format) => interval(band, (end) => format(end)) || "—";

/** T = queue + network + compute, and Little's law. */
function drawParts(here) {
  const parts = [["queue_ms", "queue"], ["network_ms", "network"], ["compute_ms", "compute"]];
  figure(here, {
    id: "plot-parts", title: "Where the time goes", height: 340,
    label: "Mean latency split into queue, network and compute over load",
    caption: "T = queue + network + compute, means per level.",
    empty: "T = queue + network + compute: not measured in this run.",
    draw: (_, style) => {
      const known = LAST.filter((level) => has(level.parts));
      if (!known.length) return null;
      const traces = parts.map(([key, name], at) => ({ type: "bar", name, x: known.map((level) => plain(nameOf(level))), y: known.map((level) => level.parts[key]), marker: { color: style.series[[1, 4, 3][at]], pattern: hatched(style, ["", "/", "."][at]) }, hovertemplate: `%{x}: ${name} %{y:.4~g} ms<extra></extra>` }));
      return { traces, layout: { barmode: "stack", legend: above(style), xaxis: categories(style), yaxis: axis(style, "ms") } };
    },
    table: () => [["level", "queue", "network", "compute", "how it is known"], LAST.map((level) => [nameOf(level), ...parts.map(([key]) => milliseconds(level.parts?.[key])), level.parts?.words ?? "—"])],
  });
  here.append(folded("Little's law, L = λW, on every level", () => table(["level", "L, in flight by the gauges", "λ, ended per second", "W, mean time", "λW", "residual"], LAST.map(({ little, ...level }) => [nameOf(level), digits(little?.l), digits(little?.lambda), milliseconds(has(little?.w) ? little.w * 1000 : NaN), digits(has(little?.lambda) && has(little?.w) ? little.lambda * little.w : NaN), has(little?.residual) ? `${digits(little.residual * 100, 3)} %` : "—"]), "Little's law")));
}

function drawLatency() {
  const here = section("latency", "Distributions of latency", "From the merged histograms of every level: three significant digits, nothing averaged.");
  const metric = { name: "metric", label: "of", options: METRICS, value: "e2el" };
  const curve = (draw) => ({ metric: name }, style) => {
    const all = curvesOf(name);
    return all.length ? draw(all, style) : null;
  };
  const hover = (level, points) => points.map(([share, ms]) => `${plain(nameOf(level))}: ${digits(share * 100, 6)} % within ${milliseconds(ms)}`);
  figure(here, {
    id: "plot-cdf", title: "Cumulative distribution", height: 420, controls: [metric],
    label: "Share of requests that took at most so long, one line per level", caption: "The legend is in the order of rising load.",
    draw: curve((all, style) => ({
      traces: all.map(([level, { quantiles }], at) => ({ name: plain(nameOf(level)), x: quantiles.map((point) => point[1]), y: quantiles.map((point) => point[0] * 100), mode: "lines", line: { color: style.step(at, all.length), width: 2, shape: "hv" }, text: hover(level, quantiles), hoverinfo: "text" })),
      layout: { xaxis: logMilliseconds(style, all.flatMap(([, { box }]) => [box.min, box.max])), yaxis: axis(style, "% of requests", { range: [0, 101] }), hovermode: "closest" },
    })),
    table: ({ metric: name }) => quantileTable(name),
  });
  figure(here, {
    id: "plot-percentiles", title: "Percentiles up to the tail", height: 420, controls: [{ ...metric }],
    label: "Latency by percentile on an axis that stretches the tail, one line per level", caption: "The axis stretches towards 100 %, as far as a level has requests to tell.",
    draw: curve((all, style) => {
      const inverse = (share, count) => 1 / Math.max(1 - share, 1 / (2 * count));
      const ticks = [0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999];
      return {
        traces: all.map(([level, { quantiles, count }], at) => ({ name: plain(nameOf(level)), x: quantiles.map((point) => inverse(point[0], count)), y: quantiles.map((point) => point[1]), mode: "lines", line: { color: style.step(at, all.length), width: 2 }, text: hover(level, quantiles), hoverinfo: "text" })),
        layout: { xaxis: axis(style, "percentile", { type: "log", tickvals: ticks.map((share) => 1 / (1 - share)), ticktext: ticks.map((share) => `${digits(share * 100, 8)}`) }), yaxis: logMilliseconds(style, all.flatMap(([, { box }]) => [box.min, box.max])), hovermode: "closest" },
      };
    }),
    table: ({ metric: name }) => quantileTable(name),
  });
  figure(here, {
    id: "plot-box", title: "Boxes", height: 400, controls: [{ ...metric }],
    label: "Box plot of latency per level", caption: "Box: quartiles and median; whiskers: 5 % and 95 %; dashed: mean.",
    draw: curve((all, style) => ({
      traces: all.map(([level, { box }], at) => ({ type: "box", name: plain(nameOf(level)), x: [plain(nameOf(level))], q1: [box.p25], median: [box.median], q3: [box.p75], lowerfence: [box.p5], upperfence: [box.p95], mean: [box.mean], boxmean: true, marker: { color: style.step(at, all.length) }, showlegend: false })),
      layout: { xaxis: categories(style), yaxis: logMilliseconds(style, all.flatMap(([, { box }]) => [box.p5, box.p95])) },
    })),
    table: ({ metric: name }) => [["level", "n", "min", "p25", "median", "mean", "p75", "p95", "p99", "max"], curvesOf(name).map(([level, { count, box }]) => [nameOf(level), count, ...["min", "p25", "median", "mean", "p75", "p95", "p99", "max"].map((key) => milliseconds(box[key]))])],
  });
}

function quantileTable(metric) {
  const shares = [0.5, 0.9, 0.95, 0.99, 0.999];
  const at = (points, share) => points.find((point) => point[0] >= share - 1e-9)?.[1];
  return [["level", ...shares.map((share) => `p${digits(share * 100)}`)], curvesOf(metric).map(([level, { quantiles }]) => [nameOf(level), ...shares.map((share) => milliseconds(at(quantiles, share)))])];
}

function drawErrors() {
  const here = section("errors", "What failed", "Failed requests of the measured window by kind; the error rate is failed / (completed + failed).");
  const kinds = [...new Set(LAST.flatMap((level) => Object.keys(level.error_kinds || {})))].sort();
  figure(here, {
    id: "plot-errors", title: "Errors", height: 340, label: "Failed requests by kind over load",
    caption: kinds.length ? "Counts by kind." : "",
    empty: LAST.some((level) => level.completed > 0) ? "No request failed in a measured window." : UNKNOWN,
    draw: (_, style) => {
      if (!kinds.length) return null;
      const x = LAST.map((level) => plain(nameOf(level)));
      const bars = kinds.map((kind, at) => ({ type: "bar", name: plain(kind), x, y: LAST.map((level) => level.error_kinds?.[kind] ?? 0), marker: { color: style.series[at % style.series.length], pattern: hatched(style, ["", "/", "x", ".", "-", "+"][at % 6]) } }));
      const rate = { name: "error rate, %", x, y: LAST.map((level) => (has(level.error_rate) ? level.error_rate * 100 : null)), yaxis: "y2", mode: "lines+markers", line: { color: style.bad } };
      return { traces: [...bars, rate], layout: { barmode: "stack", legend: above(style), xaxis: categories(style), yaxis: axis(style, "failed requests", { rangemode: "tozero" }), yaxis2: axis(style, "%", { overlaying: "y", side: "right", rangemode: "tozero", showgrid: false }) } };
    },
  });
  here.append(folded("Counts of every level", () => table(["level", "released", "completed", "failed", "incomplete", "unreported", "error rate", "kinds", "an example"], LAST.map((level) => [nameOf(level), level.released, level.completed, level.failed, level.incomplete, level.unreported, has(level.error_rate) ? `${digits(level.error_rate * 100, 3)} %` : "—", Object.entries(level.error_kinds || {}).map(([kind, count]) => `${kind}: ${count}`).join(", ") || "—", level.sample_error ?? "—"]), "Counts of every level")));
}
