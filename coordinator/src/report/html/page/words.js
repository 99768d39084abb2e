// What was found, in words, and what it rests on.

function card(title, big, text, kind) {
  const body = [el("h3", null, title), el("div", { class: `big ${kind || ""}` }, big)];
  if (text) body.push(el("p", null, text));
  return el("div", { class: "card" }, body);
}

function drawHead() {
  const { run } = SUMMARY;
  const badges = [];
  if (list(DATA.simulated).length) badges.push(el("p", null, el("span", { class: "badge simulated" }, "SIMULATED"), ` ${DATA.simulated.join("; ")}: these are not figures of a real machine.`));
  if (!run.complete) badges.push(el("p", null, el("span", { class: "badge warn" }, "INCOMPLETE"), ` ${run.cut_short || "the run was not closed"}: what it had measured by then.`));
  const kind = run.experiment && run.experiment !== "sweep" ? `${run.experiment}, ` : "";
  page.append(el("header", null, el("h1", null, run.model || run.name), el("p", { class: "quiet" }, `${kind}${run.load?.loop ?? ""} loop at ${run.base_url}${run.path} · ${run.started_utc} · run ${run.name} · tailcliff ${run.tailcliff_version}`), badges));
}

function drawFound() {
  const here = section("found", "What was found");
  const { knee, cliff, diagnosis, cliff_diagnosis: cliffDiagnosis, slo } = SUMMARY;
  const spot = (found) => found?.estimate?.at ?? found?.concurrency ?? found?.request_rate;
  const unit = isOpen ? "req/s" : "in flight";
  const place = (found) => {
    if (!has(spot(found))) return isSweep ? "none found" : "not judged";
    return `${digits(Number(spot(found)))} ${unit} ${interval(found.estimate?.ci, (end) => digits(end))}`;
  };
  const cards = el("div", { class: "cards" });
  const best = LAST.filter((level) => isServers(level) && has(level.output_throughput)).sort((a, b) => b.output_throughput - a.output_throughput)[0];
  cards.append(card("Knee: throughput stops growing", place(knee), knee?.words, has(spot(knee)) ? "good" : ""));
  cards.append(card("Cliff: the tail leaves", place(cliff), cliff?.words, has(spot(cliff)) ? "bad" : ""));
  const why = (title, of) => card(title, of.cause, `${of.words || ""}${has(of.confidence) ? ` (confidence ${digits(of.confidence, 2)})` : ""}`);
  cards.append(diagnosis ? why("Why", diagnosis) : card("Why", "no diagnosis", "a run without a knee, or with too little to judge by"));
  if (cliffDiagnosis) cards.append(why("Why the cliff is there", cliffDiagnosis));
  cards.append(slo ? card("Capacity within the SLO", has(slo.at) ? `${digits(Number(slo.at))} ${unit}` : "none", slo.words) : card("Capacity within the SLO", UNKNOWN, "no SLO was given (--goodput)"));
  cards.append(best ? card("Most output", `${digits(best.output_throughput)} tokens/s`, `at ${nameOf(best)}, ${digits(best.request_throughput)} requests/s${verdictOf(best) === "thin" ? " (thin: few requests)" : ""}`) : card("Most output", UNKNOWN, "no level counts"));
  cards.append(trust());
  here.append(cards);
  for (const [words, of] of [["The evidence for the cause", diagnosis], ["The evidence for the cliff's cause", cliffDiagnosis]]) {
    const rows = [...list(of?.evidence).map((e) => ["for", e.signal, e.words]), ...list(of?.excluded).map((e) => ["excluded", e.cause, e.words])];
    if (rows.length) here.append(folded(words, () => table(["", "what", "words"], rows, words), true));
  }
  const advice = list(SUMMARY.advice);
  here.append(el("h3", null, "Advice"), advice.length ? el("ul", null, advice.map((a) => el("li", null, a.words ?? String(a)))) : el("p", { class: "quiet" }, "none from this run"));
  const { search } = SUMMARY;
  if (search) here.append(el("p", { id: "searched", class: "quiet" }, `The load was searched: ${search.levels} levels in ${digits(search.seconds)} s; intervals of ${digits(search.resolution * 100)} % were asked for.`));
  const warnings = list(SUMMARY.warnings);
  if (warnings.length) here.append(folded(warnings.length === 1 ? "1 warning" : `${warnings.length} warnings`, () => el("ul", null, warnings.map((warning) => el("li", null, warning))), true));
}

function trust() {
  const bad = LAST.filter((level) => !isServers(level)).length;
  const thin = LAST.filter((level) => verdictOf(level) === "thin").length;
  const of = (count) => `${count} of ${LAST.length} ${LAST.length === 1 ? "level" : "levels"}`;
  const big = bad ? `${of(bad)} ${bad === 1 ? "is" : "are"} not the server's` : thin ? `${of(thin)} ${thin === 1 ? "is" : "are"} thin` : LAST.length ? `all ${LAST.length} levels pass` : "no level";
  const few = thin ? `${of(thin)}: fewer than 20 completed requests, so that the tail is a guess; ` : "";
  return card("Can it be trusted?", big, `${few}each level's own certificate, below`, bad || thin || !LAST.length ? "warn" : "good");
}

function drawCertificates() {
  const here = section("certificates", "Certificates", "Every level says whether the client, not the server, was the limit. A check that nobody measured is a dash.");
  const colour = { ok: "good", thin: "warn", "client-bound": "warn", void: "bad" };
  for (const level of LEVELS) {
    const c = level.certificate || {};
    const title = el("h3", null, nameAmongAll(level), " ", el("span", { class: `badge ${colour[c.verdict] || ""}` }, c.verdict || "void"));
    const words = [...list(c.reasons), ...list(c.notes), ...(level.voided ? [level.voided] : [])];
    here.append(title, words.length ? el("p", null, words.join("; ")) : null || "");
    const rows = () => table(["check", "value", "limit", "", "ok", "worst"], list(c.checks).map((check) => [check.name.replaceAll("_", " "), has(check.value) ? digits(check.value) : "—", `${check.rule} ${digits(check.limit)}`, check.unit || "", check.ok === null ? "—" : check.ok ? "yes" : "NO", check.worst ?? "—"]), `Checks of ${nameAmongAll(level)}`);
    const failed = list(c.checks).filter((check) => check.ok === false).length;
    here.append(folded(`${list(c.checks).length} checks${failed ? `, ${failed} failed` : ""}`, rows, failed > 0));
  }
}

function drawNodes() {
  const here = section("nodes", "Nodes and their clocks");
  const us = (value) => (has(value) ? `${digits(value)} µs` : "—");
  here.append(table(["node", "kind", "clock", "bound, median", "bound, worst", "repeatability", "exchanges", "shortest round trip", "GPU samples", "lost"], list(SUMMARY.nodes).map((node) => [node.name, node.kind, node.clock.track ?? "—", us(node.clock.median_bound_us), us(node.clock.worst_bound_us), us(node.clock.repeatability_us), node.clock.exchanges, us(node.clock.rtt_min_us), node.gpu_samples, node.lost ? "yes" : "no"]), "Nodes and clocks"));
  const { causality } = SUMMARY;
  if (causality) here.append(folded("Do effects come after causes on this timeline?", () => el("pre", { tabindex: 0 }, JSON.stringify(causality, null, 1))));
}

function drawEnvironment() {
  const here = section("environment", "Environment");
  const { environment } = DATA;
  const missing = list(environment.missing);
  if (missing.length) here.append(el("p", null, `Nobody told: ${missing.map((m) => `${m.fact} (${m.give})`).join("; ")}.`));
  const flat = (value, path) => (value !== null && typeof value === "object" ? Object.entries(value).flatMap(([key, inner]) => flat(inner, path ? `${path}.${key}` : key)) : [[path, has(value) ? String(value) : "—"]]);
  for (const [key, words] of [["server", "Server"], ["metadata", "Told by the user"], ["agents", "Agents"], ["probes", "Probes"], ["plan", "Plan"]]) {
    const rows = flat(environment[key] ?? {}, "");
    if (rows.length) here.append(folded(`${words} (${rows.length} facts)`, () => table(["fact", "value"], rows, words), key === "server" || key === "metadata"));
  }
  here.append(folded("Command", () => el("pre", { tabindex: 0 }, list(environment.command).join(" "))));
}

function drawDoubt() {
  const here = section("doubt", "How to doubt it");
  const files = [
    "requests.csv has every request, its stamps and its error bar: percentiles can be computed again from it.",
    "histograms.hlog has the merged histograms that the percentiles come from; other HdrHistogram tools read it.",
    "waterfall.csv has every request of which the server told, part by part with its clock bound, and server_trace.csv every scrape of its metrics.",
    "summary.json has every figure of this page; stalls.csv every stall with the evidence for its verdict.",
    "tailcliff merge RUN_DIR computes everything again from the journal's raw stamps; tailcliff calibrate measures what this client adds.",
  ];
  here.append(el("ul", null, files.map((text) => el("li", null, text))));
  here.append(el("p", { class: "quiet" }, `Intervals: ${SUMMARY.intervals ?? "—"}. Percentiles: ${SUMMARY.percentile_precision ?? "—"}. The plots show at most ${LINE.bins} bins over time; tables and summary.json have the figures themselves.`));
}
