// Where the time went by the server's own word: of a level, and of requests one by one.

const INSIDE = LAST.filter((level) => has(level.inside));
const SERVERS = LAST.filter((level) => has(level.server));
const PARTS_OF = list(DATA.parts);
const HOW = { measured: "", "between clocks": "two clocks", inferred: "inferred" };
const partOf = (level, part) => list(level.inside?.parts).find((figures) => figures.part === part);
const wordsOf = (part) => PARTS_OF.find((of) => of.part === part)?.words ?? part;

/** Client, ways, front end and engine each have a family of colours. */
function partColours(style) {
  const [blue, orange, violet, green, indigo, brown] = style.series;
  return { send_lag: style.warn, connect: brown, write: style.quiet, network_up: orange, front_in: indigo, queue: violet, prefill: blue, decode: green, front_out: faded(indigo, 0.65), network_down: faded(orange, 0.65), socket_wait: faded(brown, 0.65), read: faded(style.quiet, 0.65) };
}

/** How a part is known, as a mark on its bar: what one clock measured is plain. */
const markOf = (how) => ({ "between clocks": ".", inferred: "/" })[how] ?? "";
const HOW_WORDS = "Plain: measured by one clock. Dotted: between two clocks, known to within the bound. Hatched: inferred, what the other parts leave over.";
const fraction = (share) => (has(share) ? `${digits(share * 100, 3)} %` : "—");
const micro = (us) => (has(us) ? `${digits(us)} µs` : "—");
const millis = (ms) => milliseconds(ms ?? NaN);

function drawInside() {
  if (!INSIDE.length && !SERVERS.length) return;
  const here = section("inside", "Where the time went, by the server's own word", "The server's spans, stamps or reply laid on the client's stamps, on one clock: completed requests of the measured phase.");
  if (INSIDE.length) drawMeans(here);
  if (SERVERS.length) drawServers(here);
  const { inside } = SUMMARY;
  if (!inside) return;
  const steps = list(inside.wall_steps).map((step) => `the wall clock of ${step.probe} stepped by ${milliseconds(step.by_ms)} at ${digits(step.t_s, 6)} s`);
  const words = [`${inside.spans} spans came, ${inside.unmatched_spans} of them of no request of this run (start-up, other clients, the preflight)`, ...(inside.told_twice ? [`${inside.told_twice} requests were told of twice`] : []), ...steps];
  here.append(el("p", { class: "quiet" }, `${words.join("; ")}.`));
  const tally = ["received", "over_rate", "without_ids", "without_room", "malformed", "turned_away", "lines", "bad_lines", "put_off"];
  if (list(inside.tallies).length) here.append(folded("What came to each probe", () => table(["probe", ...tally.map((key) => key.replaceAll("_", " "))], inside.tallies.map((of) => [of.probe, ...tally.map((key) => of[key])]), "Spans by probe")));
}

function drawMeans(here) {
  const shown = PARTS_OF.filter(({ part }) => INSIDE.some((level) => has(partOf(level, part))));
  const odd = INSIDE.reduce((sum, level) => sum + level.inside.impossible, 0);
  figure(here, {
    id: "plot-inside", title: "The mean request of each level", height: 50 + 46 * INSIDE.length + roomBelow(shown, look()), label: "Mean time of each part of a request as a stacked bar, one bar per level",
    caption: `${HOW_WORDS} A mean below zero lies left of zero, framed in the colour of warnings. ${odd ? `${odd} requests have a part below zero by more than the clocks explain; they are counted, and in these figures all the same.` : "No request has a part that the clocks cannot explain."}`,
    draw: (_, style) => {
      const colours = partColours(style);
      const y = INSIDE.map((level) => plain(nameAmongAll(level)));
      const traces = shown.map(({ part, words }) => {
        const figures = INSIDE.map((level) => partOf(level, part));
        const hows = [...new Set(figures.filter(has).map((of) => HOW[of.how]))];
        const how = hows.filter((word) => word).join(" or ") + (hows.length > 1 ? " at some" : "");
        const isBelow = figures.map((of) => of?.mean_ms < 0);
        const pattern = { ...hatched(style, figures.map((of) => markOf(of?.how))), solidity: 0.25 };
        const hover = figures.map((of, at) => of && `${y[at]}<br>${words} (${of.how})<br>mean ${milliseconds(of.mean_ms)}, p95 ${milliseconds(of.p95_ms)}, n ${of.count}${of.impossible ? `<br>${of.impossible} impossible` : ""}${of.how === "between clocks" ? `<br>± ${micro(INSIDE[at].inside.bound_us)}` : ""}`);
        return { type: "bar", orientation: "h", name: how ? `${words} (${how})` : words, y, x: figures.map((of) => of?.mean_ms ?? null), marker: { color: colours[part], pattern, line: { color: style.bad, width: isBelow.map((is) => (is ? 3 : 0)) } }, text: hover, hovertemplate: "%{text}<extra></extra>", textposition: "none" };
      });
      return { traces, layout: { barmode: "relative", bargap: 0.35, xaxis: axis(style, "ms, mean", { zerolinecolor: style.quiet }), yaxis: axis(style, "", { type: "category", autorange: "reversed" }), margin: { l: style.narrow ? 44 : 60, r: style.narrow ? 12 : 24, t: 30, b: roomBelow(shown, style) }, legend: { orientation: "h", y: -55 / (46 * INSIDE.length), x: 0, yanchor: "top", traceorder: "normal", font: { size: style.narrow ? 10 : 12 } } } };
    },
    table: () => [["level", "part", "how", "mean", "p95", "n", "impossible"], INSIDE.flatMap((level) => list(level.inside.parts).map((of) => [nameAmongAll(level), of.words, of.how, milliseconds(of.mean_ms), milliseconds(of.p95_ms), of.count, of.impossible]))],
  });
  const named = (of, key) => list(of).map((one) => `${one[key]}: ${one.requests}`).join(", ") || "—";
  here.append(table(["level", "joined", "unmatched", "by", "server", "front end", "of the server's time", "± clock", "worst", "first token to socket", "impossible", "without a place"], INSIDE.map((level) => [nameAmongAll(level), level.inside.joined, level.inside.unmatched, named(level.inside.sources, "source"), named(level.inside.servers, "server"), millis(level.inside.front_ms), fraction(level.inside.front_share), micro(level.inside.bound_us), micro(level.inside.worst_bound_us), millis(level.inside.delivery_ms), level.inside.impossible, level.inside.unplaced]), "Requests joined with their server side"));
}

/** For the axis and its legend, of one column on a phone and of two elsewhere, px. */
const roomBelow = (shown, { narrow }) => 70 + 19 * (narrow ? shown.length : Math.ceil(shown.length / 2));

function drawServers(here) {
  const gauge = (of, scale = 1, unit = "") => (has(of) ? `${digits(of.mean * scale, 3)} / ${digits(of.max * scale, 3)}${unit}` : "—");
  here.append(el("h3", null, "The server's metrics"), el("p", { class: "quiet" }, "Mean / largest of the scrapes within the window; totals are what the window added."));
  here.append(table(["level", "running", "waiting", "KV cache", "preempted", "prefix cache hits", "drafts taken", "scrapes", "failed", "a scrape takes"], SERVERS.map((level) => [nameAmongAll(level), gauge(level.server.running), gauge(level.server.waiting), gauge(level.server.kv_usage, 100, " %"), level.server.preemptions ?? "—", fraction(level.server.cache_hit), fraction(level.server.spec_accepted), level.server.scrapes, level.server.failed, millis(level.server.took_ms)]), "Server metrics"));
  const named = SERVERS.flatMap((level) => list(level.server.named).map((of) => [nameAmongAll(level), of.series, of.mean, of.max]));
  if (named.length) here.append(folded(`Metrics asked for by name (${named.length})`, () => table(["level", "series", "mean", "largest"], named, "Metrics asked for by name")));
  const cross = SERVERS.flatMap((level) => list(level.server.cross).map((of) => [nameAmongAll(level), of.of, millis(of.server_mean_ms), millis(of.client_mean_ms), millis(of.difference_ms), bucketOf(of.server_p95_ms), of.server_count, of.client_count, of.words || "—"]));
  if (cross.length) here.append(el("h3", null, "The server's own histograms against ours"), el("p", { class: "quiet" }, "What the client sees less what the server says is network and client; both count the same time."), table(["level", "of", "server, mean", "ours, mean", "difference", "server, p95", "n, server", "n, ours", ""], cross, "Server histograms against ours"));
  const notes = SERVERS.flatMap((level) => list(level.server.notes).map((note) => `at ${nameAmongAll(level)}: ${note}`));
  if (notes.length) here.append(el("ul", null, notes.map((note) => el("li", null, note))));
}

const bucketOf = (bucket) => (!Array.isArray(bucket) ? "—" : has(bucket[1]) ? `${millis(bucket[0])} to ${millis(bucket[1])}` : `over ${millis(bucket[0])}`);

/** Begin, end and length of each part: they follow one another, and one below zero goes back. */
function laid(parts) {
  let at = 0;
  return parts.map((ms) => {
    if (!has(ms)) return null;
    const from = at;
    at += ms;
    return { from, to: at, ms };
  });
}

/** Bars of the joined requests' parts, of the others as far as the client knows them. */
function partTraces(rows, style) {
  const y = rows.map((_, at) => at);
  const spans = rows.map((row) => (row.inside ? laid(row.inside.parts_ms) : null));
  const level = LEVELS.find((of) => of.level === rows[0].level) ?? {};
  const who = (row) => `${plain(row.request_id || "request", 40)} (${row.why}; by ${row.inside.source}${row.inside.server ? ` of ${plain(row.inside.server, 60)}` : ""}${has(row.inside.bound_us) ? `, ±${micro(row.inside.bound_us)}` : ""})`;
  const colours = partColours(style);
  const bar = (name, of, marker, hover) => ({ type: "bar", orientation: "h", name, y, base: of.map((s) => (s ? Math.min(s.from, s.to) : 0)), x: of.map((s) => (s ? Math.abs(s.ms) : null)), marker, text: hover, hovertemplate: "%{text}<extra></extra>", textposition: "none" });
  const traces = PARTS_OF.flatMap(({ part, words }, nth) => {
    const of = spans.map((all) => (all?.[nth]?.ms > 0 ? all[nth] : null));
    if (!of.some(has)) return [];
    const how = partOf(level, part)?.how ?? "measured";
    const hover = rows.map((row, at) => of[at] && `${who(row)}<br>${words} (${how}): ${milliseconds(of[at].ms)}`);
    return [bar(HOW[how] ? `${words} (${HOW[how]})` : words, of, { color: colours[part], pattern: hatched(style, markOf(how)) }, hover)];
  });
  const seen = rows.map((row) => (row.inside ? null : { from: 0, to: row.stamps_ms[8], ms: row.stamps_ms[8] }));
  if (seen.some((s) => has(s?.ms))) traces.push(bar("not joined: the client's time alone", seen, { color: faded(style.quiet, 0.3) }, rows.map((row) => `${plain(row.request_id || "request", 40)} (${row.why}${row.outcome === "completed" ? "" : `, ${row.outcome} ${plain(row.error)}`}): ${millis(row.stamps_ms[8])}`)));
  return [...traces, ...belowZero(rows, spans, style, who), ...whiskers(rows, spans, style)];
}

/** Parts below zero, over all others: each goes back from where the part before it ended. */
function belowZero(rows, spans, style, who) {
  const all = spans.flatMap((parts, row) => list(parts).map((part, nth) => part && part.ms < 0 && { ...part, row, words: PARTS_OF[nth].words, impossible: rows[row].inside.impossible.includes(PARTS_OF[nth].part) }).filter(Boolean));
  if (!all.length) return [];
  const impossible = all.filter((part) => part.impossible).length;
  const name = `below zero: ${all.length} ${all.length === 1 ? "part" : "parts"}, ${impossible} by more than the clocks explain`;
  const hover = all.map((part) => `${who(rows[part.row])}<br>${part.words}: ${milliseconds(part.ms)}, ${part.impossible ? "impossible: more than the clocks explain" : "within the clocks' bound"}`);
  // As wide as may be seen beside bars that are thousands of times longer.
  return [{ type: "bar", orientation: "h", name, y: all.map((part) => part.row), base: all.map((part) => part.to), x: all.map((part) => -part.ms), width: 0.9, marker: { color: style.bad, line: { color: style.bad, width: 2 } }, text: hover, hovertemplate: "%{text}<extra></extra>", textposition: "none" }];
}

/** Where the server's clock takes over from the client's, and where it hands back: both as well known as the bound says. */
function whiskers(rows, spans, style) {
  const at = (part) => PARTS_OF.findIndex((of) => of.part === part);
  const [up, down] = [at("network_up"), at("network_down")];
  const all = spans.flatMap((parts, row) => (parts && has(rows[row].inside.bound_us) ? [parts[up]?.to, parts[down]?.from].filter(has).map((x) => ({ x, row, ms: rows[row].inside.bound_us / 1e3 })) : []));
  if (!all.length) return [];
  return [{ type: "scatter", mode: "markers", name: "± clock, where two clocks meet", x: all.map((one) => one.x), y: all.map((one) => one.row), marker: { color: style.ink, symbol: "line-ns-open", size: 6 }, error_x: { type: "data", array: all.map((one) => one.ms), color: style.ink, thickness: 1, width: 3 }, text: all.map((one) => `two clocks meet here: ± ${milliseconds(one.ms)}`), hovertemplate: "%{text}<extra></extra>" }];
}
