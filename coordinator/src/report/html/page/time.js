// The run over time: heat map, timeline with its stalls, and requests one by one.

const LINE = DATA.timeline;
const STALLS = list(DATA.stalls);
const STALL_COLOURS = { waiting: 0, "extra compute": 1, throttled: 2, "client buffering": 3, "network buffering": 4 };
const timesOf = (start, step, count) => Array.from({ length: count }, (_, at) => start + at * step);

function drawHeat() {
  const here = section("heat", "Latency over time", "How many completed requests of the whole run, warm-up included, took how long; by the moment they were to be sent.");
  const heat = DATA.heat;
  figure(here, {
    id: "plot-heat", title: "Time by latency", height: 420, label: "Heat map of counts of requests, time by latency",
    caption: `Columns of ${digits(heat.column_s)} s; the colour is the count on a logarithmic scale.`,
    controls: [{ name: "metric", label: "of", options: [["e2el", "end to end"], ["ttft", "time to first token"]] }],
    empty: "No request completed.",
    draw: ({ metric }, style) => {
      const grid = heat[metric];
      if (!grid) return null;
      const x = timesOf(heat.start_s, heat.column_s, heat.columns + 1);
      const z = grid.rows.map((row) => row.map((count) => (count > 0 ? Math.log10(count) : null)));
      const most = Math.max(...grid.rows.map((row) => Math.max(...row)));
      const ticks = [1, 10, 100, 1000, 10000, 100000, 1000000].filter((count) => count <= Math.max(most, 1));
      const trace = {
        type: "heatmap", x, y: grid.edges_ms, z, text: grid.rows, hoverongaps: false,
        hovertemplate: "%{x:.5~g} s, %{y:.4~g} ms: %{text} requests<extra></extra>",
        colorscale: style.dark ? [[0, "#203a55"], [0.5, "#4aa3df"], [1, "#fff3b0"]] : [[0, "#c9e2f3"], [0.5, "#3182bd"], [1, "#3f007d"]],
        colorbar: { tickvals: ticks.map(Math.log10), ticktext: ticks.map((count) => digits(count)), thickness: 12, title: { text: "requests", side: "right" } },
      };
      return { traces: [trace], layout: { xaxis: axis(style, "s since the run began"), yaxis: logMilliseconds(style, grid.edges_ms) } };
    },
  });
}

const middle = (bin) => LINE.start_s + (bin + 0.5) * LINE.bin_s;

/** Runs of bins that have a reading; a signal that is read more slowly than the bins are long is still one run. */
function runsOf(values) {
  const longest = Math.max(3, Math.ceil(1.5 / LINE.bin_s));
  const runs = [];
  values.forEach((value, bin) => {
    if (!has(value)) return;
    const run = runs.at(-1);
    if (run && bin - run.at(-1) <= longest) run.push(bin);
    else runs.push([bin]);
  });
  return runs;
}

function kept(values) {
  const bins = runsOf(values).flatMap((run) => [...run, null]);
  return { x: bins.map((bin) => (bin === null ? null : middle(bin))), y: bins.map((bin) => (bin === null ? null : values[bin])) };
}

/** Around what lies between smallest and largest, one shape for each run. */
function outline({ min, max }) {
  const x = [], y = [];
  for (const run of runsOf(min)) {
    const back = [...run].reverse();
    x.push(...run.map(middle), ...back.map(middle), null);
    y.push(...run.map((bin) => min[bin]), ...back.map((bin) => max[bin]), null);
  }
  return { x, y };
}

/** The rows of the timeline that this run has something for. */
function timelineRows(style) {
  const { series } = LINE;
  const line = (name, y, colour, more) => ({ name, y, mode: "lines", line: { color: colour, width: 1.3, ...more } });
  const rows = [
    { title: "requests", traces: [line("in flight", series.in_flight, style.series[0]), line("of these, sent and without a token yet (queue and prefill)", series.waiting, style.series[1], { dash: "dot" })] },
    { title: "tokens/s", traces: [line("output tokens/s", series.output_tokens_per_s, style.series[3])] },
    { title: "ends/s", traces: [line("completed/s", series.completed_per_s, style.series[4]), line("failed/s", series.failed_per_s, style.bad, { dash: "dash" })] },
  ];
  const gpus = list(LINE.gpus?.shown);
  const signal = (key, title) => {
    const traces = gpus.filter((gpu) => gpu[key]).flatMap((gpu, at) => {
      const colour = style.series[(at + 2) % style.series.length];
      const name = plain(`${title} of ${gpu.name || "GPU"} ${gpu.gpu}${gpu.simulated ? " (SIMULATED)" : ""}${key === "power_w" && gpu.power_is_average ? ", a 1-second average" : ""}`);
      const band = { ...outline(gpu[key]), mode: "lines", line: { width: 0 }, fill: "toself", fillcolor: faded(colour, 0.3), hoverinfo: "skip", showlegend: false, legendgroup: name };
      return [band, { ...line(name, gpu[key].mean, colour), ...kept(gpu[key].mean), legendgroup: name }];
    });
    if (traces.length) rows.push({ title: key === "power_w" ? "W" : key === "util_pct" ? "%" : "MHz", traces });
  };
  signal("power_w", "power");
  signal("util_pct", "use");
  signal("sm_clock_mhz", "SM clock");
  rows.push(...serverRows(style, line));
  const hosts = list(LINE.hosts);
  if (hosts.length) rows.push({ title: "cores", traces: hosts.map((host, at) => ({ ...line(plain(`server's CPU by ${host.probe}`), null, style.series[at % 6]), ...kept(host.server_cores) })) });
  const bounds = [line("agents' clocks, ±µs", series.agent_bound_us, style.series[0]), line("probes' clocks, ±µs", LINE.gpus?.probe_bound_us || [], style.series[2], { dash: "dot" })];
  const known = bounds.filter((trace) => trace.y.some(has));
  if (known.length) rows.push({ title: "±µs", traces: known.map((trace) => ({ ...trace, ...kept(trace.y) })) });
  return rows;
}

/** What the server's metrics said. */
function serverRows(style, line) {
  const servers = list(LINE.servers?.shown);
  const name = (words, server) => plain(servers.length > 1 ? `server: ${words} (${server.endpoint} by ${server.probe})` : `server: ${words}`);
  const of = (key, words, shade, dash) => servers.filter((server) => server[key]).map((server, at) => ({ ...line(name(words, server), null, style.series[(shade + at) % style.series.length], { dash }), mode: "lines+markers", marker: { size: 3 }, ...kept(server[key].mean) }));
  const queue = [...of("running", "running", 0), ...of("waiting", "waiting", 1, "dot")];
  const usage = of("kv_pct", "KV cache in use", 3);
  return [...(queue.length ? [{ title: "requests", traces: queue }] : []), ...(usage.length ? [{ title: "KV %", traces: usage }] : [])];
}

function drawTimeline() {
  const same = !list(LINE.series.agent_bound_us).some(has);
  const here = section("timeline", "Timeline", `Bins of ${digits(LINE.bin_s)} s on the coordinator's clock. ${same ? "Every node reads the coordinator's own clock, so the clock bound is ±0." : "The lowest row is the clock bound: how far a stamp of that moment may be off."} Shaded: the measured windows; marks on top: stalls, by verdict.`);
  const rows = timelineRows(look()).length;
  figure(here, {
    id: "plot-timeline", title: "Everything on one axis", height: 150 * rows + 110,
    label: "Requests in flight, tokens per second, ends per second, GPU power, use and clock, what the server had running and waiting, and clock bound over time, stalls marked",
    caption: `${look().narrow ? "" : "Drag to look closer, double-click to see all again. "}${STALLS.length ? `${STALLS.length} stalls are marked, the longest; the run has ${SUMMARY.stalls?.count ?? STALLS.length}.` : "No stall was found."}${LINE.outside ? ` ${LINE.outside} requests ended beyond the axis.` : ""}${LINE.unaligned ? ` ${LINE.unaligned} requests have no clock track and are left out.` : ""}`,
    empty: "nothing happened",
    draw: (_, style) => {
      const all = timelineRows(style);
      const x = timesOf(LINE.start_s + LINE.bin_s / 2, LINE.bin_s, LINE.bins);
      const traces = [], layout = { hovermode: "x unified", shapes: [], annotations: [], legend: { orientation: "h", y: -0.06, x: 0, yanchor: "top", font: { size: style.narrow ? 10 : 12 } } };
      const gap = 0.025, height = (1 - gap * (all.length - 1)) / all.length;
      all.forEach((row, at) => {
        const suffix = at === 0 ? "" : String(at + 1);
        const top = 1 - at * (height + gap);
        layout[`yaxis${suffix}`] = axis(style, row.title, { domain: [Math.max(0, top - height), top], rangemode: "tozero", nticks: 5 });
        traces.push(...row.traces.map((trace) => ({ ...trace, x: trace.x || x, yaxis: `y${suffix}`, hovertemplate: trace.hoverinfo ? null : "%{y:.4~g}" })));
      });
      const last = all.length === 1 ? "y" : `y${all.length}`;
      layout.xaxis = axis(style, "s since the run began", { anchor: last });
      for (const level of list(LINE.levels)) {
        if (level.window_s) layout.shapes.push({ type: "rect", x0: level.window_s[0], x1: level.window_s[1], yref: "paper", y0: 0, y1: 1, fillcolor: faded(style.quiet, 0.09), line: { width: 0 }, layer: "below" });
      }
      traces.push(...stallTraces(style));
      layout.shapes.push(...STALLS.map((stall) => ({ type: "rect", x0: stall.t_s - stall.unc_us / 1e6, x1: stall.t_s + stall.gap_ms / 1e3 + stall.unc_us / 1e6, yref: "paper", y0: 0, y1: 1, fillcolor: faded(stallColour(stall, style), 0.07), line: { width: 0 }, layer: "below" })));
      layout.yaxis99 = { overlaying: "y", range: [0, 1], visible: false, fixedrange: true };
      return { traces, layout };
    },
  });
  drawStalls(here);
}

function stallColour(stall, style) {
  const at = STALL_COLOURS[stall.verdict];
  return at === undefined ? style.quiet : style.series[at];
}

function stallTraces(style) {
  const verdicts = [...new Set(STALLS.map((stall) => stall.verdict))];
  return verdicts.map((verdict) => {
    const those = STALLS.filter((stall) => stall.verdict === verdict);
    const words = (stall) => `stall of ${milliseconds(stall.gap_ms)} (${stall.kind}): ${plain(verdict)}, confidence ${digits(stall.confidence, 2)}`;
    return { name: plain(`stall: ${verdict}`), x: those.map((stall) => stall.t_s + stall.gap_ms / 2e3), y: those.map(() => 0.97), yaxis: "y99", mode: "markers", marker: { symbol: "triangle-down", size: 9, color: stallColour(those[0], style) }, text: those.map(words), hovertemplate: "%{text}<extra></extra>" };
  });
}

function drawStalls(here) {
  if (!STALLS.length) return;
  const worst = [...STALLS].sort((a, b) => b.gap_ms - a.gap_ms);
  const rows = () => table(["at", "long", "± clock", "kind", "verdict", "confidence", "energy", "request", "agent", "why"], worst.map((stall) => [`${digits(stall.t_s, 6)} s`, milliseconds(stall.gap_ms), `${digits(stall.unc_us)} µs`, stall.kind, stall.verdict, digits(stall.confidence, 2), has(stall.energy_j) ? `${digits(stall.energy_j)} J` : "—", stall.request_id || "—", stall.agent || "—", stall.why]), "Stalls");
  here.append(folded(`Stalls and the evidence for each verdict (${worst.length} longest)`, rows));
}

// Where each stage of a request ends, among its stamps; what comes before a stamp that is missing is counted to the next.
const STAGES = [
  [1, "held by the client", "client"], [2, "connection", "network"], [3, "written", "client"], [4, "until headers", "network, queue, prefill"],
  [5, "until first chunk", "queue, prefill"], [6, "until first token", "prefill"], [7, "tokens", "decoding"], [8, "until done", "end"],
];

function drawWaterfall() {
  const here = section("waterfall", "Requests one by one", "A sample of each level: the slowest, some at random and some that did not complete; from the intended send.");
  const rows = list(DATA.waterfall);
  const levels = levelOptions().filter(([level]) => rows.some((row) => String(row.level) === level));
  const isTold = rows.some((row) => row.inside);
  const both = { name: "show", label: "show", options: [["parts", "with the server's parts"], ["stages", "the client's stages"]] };
  const told = `${HOW_WORDS} Whiskers: the clock bound where two clocks meet. Parts below zero go back, are drawn over the others and counted, never cut off.`;
  figure(here, {
    id: "plot-waterfall", title: "Waterfall", height: isTold ? 900 : 560, label: "Stages of sampled requests as bars from the intended send",
    caption: isTold ? told : "Client, network, server: held and written are the client's; until headers is network, queue and prefill together, since a client cannot tell them apart.",
    controls: [{ name: "level", label: "level", options: levels, value: levels.at(-1)?.[0] }, ...(isTold ? [both] : [])],
    empty: "No request could be placed in time.",
    draw: ({ level, show }, style) => {
      const those = rows.filter((row) => String(row.level) === level).sort((a, b) => b.why.localeCompare(a.why) || b.t_s - a.t_s).reverse();
      if (!those.length) return null;
      const traces = show === "parts" ? partTraces(those, style) : stageTraces(those, style);
      const labels = those.map((row) => `${row.outcome === "completed" ? row.why : row.outcome}, ${digits(row.t_s, 5)} s`);
      return { traces, layout: { barmode: "overlay", bargap: 0.25, xaxis: axis(style, "ms since the intended send"), yaxis: axis(style, "", { range: [-0.7, those.length - 0.3], tickvals: those.map((_, at) => at), ticktext: labels, tickfont: { size: 10 } }), legend: { orientation: "h", y: -0.12, x: 0, yanchor: "top", font: { size: style.narrow ? 10 : 12 } } } };
    },
    table: ({ level, show }) => {
      const those = rows.filter((row) => String(row.level) === level);
      const who = (row) => [`${digits(row.t_s, 6)} s`, row.request_id || "—", row.why, row.error ? `${row.outcome}: ${row.error}` : row.outcome];
      if (show !== "parts") return [["at", "request", "why", "outcome", ...STAGES.map(([, name]) => name), "± clock"], those.map((row) => [...who(row), ...STAGES.map(([at]) => span(row.stamps_ms, at)).map((s) => milliseconds(s ? s[1] - s[0] : NaN)), `${digits(row.unc_us)} µs`])];
      const parts = (row) => PARTS_OF.map((_, at) => millis(row.inside?.parts_ms[at]));
      return [["at", "request", "why", "outcome", ...PARTS_OF.map(({ words }) => words), "all", "± clock", "by", "server", "impossible"], those.map((row) => [...who(row), ...parts(row), millis(row.stamps_ms[8]), micro(row.inside?.bound_us), row.inside?.source ?? "not joined", row.inside?.server || "—", list(row.inside?.impossible).map(wordsOf).join(", ") || "—"])];
    },
  });
}

function stageTraces(those, style) {
  const colours = [style.warn, style.series[5], style.quiet, style.series[1], style.series[2], style.series[4], style.series[3], style.bad];
  const y = those.map((_, at) => at);
  return STAGES.map(([at, name, whose], nth) => {
    const spans = those.map((row) => span(row.stamps_ms, at));
    return { type: "bar", orientation: "h", name, y, base: spans.map((s) => s?.[0] ?? 0), x: spans.map((s) => (s ? s[1] - s[0] : null)), marker: { color: colours[nth] }, text: those.map((row, which) => `${plain(row.request_id || "request", 40)} (${row.why}${row.outcome === "completed" ? "" : `, ${row.outcome} ${plain(row.error)}`})<br>${name} (${whose}): ${milliseconds(spans[which] ? spans[which][1] - spans[which][0] : NaN)}`), hovertemplate: "%{text}<extra></extra>", textposition: "none" };
  });
}

/** From the last stamp that is known to this one. */
function span(stamps, at) {
  if (!has(stamps[at])) return null;
  const before = stamps.slice(0, at).filter(has);
  const from = before.length ? Math.max(...before) : 0;
  return stamps[at] >= from ? [from, stamps[at]] : null;
}
