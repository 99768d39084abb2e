// Levels: their names, where they lie on the axis of load, and what is drawn over it.

const METRICS = [["e2el", "end to end"], ["ttft", "time to first token"], ["tpot", "time per output token"], ["itl", "gap between chunks"]];
const PERCENTILES = [["median", "p50"], ["p95", "p95"], ["p99", "p99"]];
const LEVELS = list(SUMMARY.levels);
const verdictOf = (level) => level.certificate?.verdict || "void";

/** What a rung asks for, by which it is told from the others; the same for every try of it. */
function rungOf({ cell, role, concurrency, request_rate }) {
  const part = (value, words) => (has(value) ? words : null);
  const under = part(cell?.request_timeout_s, `, timeout ${digits(cell?.request_timeout_s)} s`) ?? "";
  const size = [part(cell?.prompt_chars, `${cell?.prompt_chars} chars`), part(cell?.max_tokens, `${cell?.max_tokens} tokens`)].filter(has).join(" × ");
  return (size || (role ? `${role}, ` : "") + (has(concurrency) ? `${concurrency} in flight` : `${request_rate} req/s`)) + under;
}

const nameOf = (level) => rungOf(level) + (level.attempt > 1 ? `, try ${level.attempt}` : "");

/** Its name among all levels: a search may drive a load again, and one of them counts. */
function nameAmongAll(level) {
  const same = LEVELS.filter((other) => nameOf(other) === nameOf(level));
  if (same.length < 2) return nameOf(level);
  const nth = same.indexOf(level);
  return nameOf(level) + (nth === 0 ? "" : nth === 1 ? " (again)" : ` (again, ${nth})`) + (LAST.includes(level) ? ", counts" : "");
}

/** Of each rung the level that counts; where the summary does not say which, the last. */
const LAST = LEVELS.filter((level, at) => level.counts ?? !LEVELS.some((other, later) => later > at && other.counts !== false && rungOf(other) === rungOf(level)));
const loadOf = (level) => level.concurrency ?? level.request_rate;
const isSweep = (SUMMARY.run?.experiment ?? "sweep") === "sweep";
const isLine = isSweep && LAST.every((level) => Number.isFinite(loadOf(level))) && new Set(LAST.map(loadOf)).size === LAST.length;
const isOpen = LAST.some((level) => has(level.request_rate));
const isWide = isLine && LAST.length > 1 && Math.max(...LAST.map(loadOf)) >= 12 * Math.min(...LAST.map(loadOf));
const placeOf = (level) => (isLine ? loadOf(level) : plain(nameOf(level)));
const LOAD = isOpen ? "requests per second asked for" : "requests in flight (concurrency)";

/** The ends of the axis of load, which an interval without an end reaches. */
const ENDS = (() => {
  if (!isLine || !LAST.length) return null;
  const estimates = [SUMMARY.knee?.estimate, SUMMARY.cliff?.estimate].filter(has);
  const all = [...LAST.map(loadOf), ...estimates.flatMap(({ at, ci }) => [at, ...list(ci)])].filter((load) => Number.isFinite(load) && (!isWide || load > 0));
  const [low, high] = [Math.min(...all), Math.max(...all)].map((load) => (isWide ? Math.log10(load) : load));
  const room = (high - low) * 0.06 || 1;
  return [low - room, high + room];
})();
const loadAt = (place) => (isWide ? 10 ** place : place);

/** An interval in words; `?` for an end that is not known. */
const interval = (band, format) => (Array.isArray(band) && band.some(has) ? `[${band.map((end) => (has(end) ? format(end) : "?")).join(", ")}]` : "");

function loadAxis(style, more) {
  if (!isLine) return axis(style, "", { type: "category", tickangle: style.narrow ? -60 : "auto", ...more });
  const loads = LAST.map(loadOf);
  const apart = loads.filter((load, at) => at === 0 || !isWide || load / loads[at - 1] >= 1.25 || loads.length < 9);
  return axis(style, LOAD, { type: isWide ? "log" : "linear", range: ENDS, tickvals: apart, ticktext: apart.map((load) => digits(load)), ...more });
}

/** Knee and cliff, each as a line, with its interval as a band where it has one. */
function marks(style) {
  if (!isLine) return { shapes: [], annotations: [] };
  const shapes = [], annotations = [];
  const at = (value) => (isWide ? Math.log10(value) : value);
  const mark = (found, name, colour, y) => {
    const place = found?.estimate?.at ?? found?.concurrency ?? found?.request_rate;
    if (!Number.isFinite(place)) return;
    const band = found?.estimate?.ci;
    shapes.push({ type: "line", x0: place, x1: place, yref: "paper", y0: 0, y1: 1, line: { color: colour, width: 2, dash: name === "knee" ? "dash" : "dot" } });
    if (Array.isArray(band) && band.some(has)) {
      shapes.push({ type: "rect", x0: band[0] ?? loadAt(ENDS[0]), x1: band[1] ?? loadAt(ENDS[1]), yref: "paper", y0: 0, y1: 1, fillcolor: faded(colour, 0.14), line: { width: 0 }, layer: "below" });
    }
    annotations.push({ x: at(place), y, yref: "paper", text: `${name} ${digits(place)}`, showarrow: false, xanchor: "left", xshift: 4, font: { color: colour } });
  };
  mark(SUMMARY.knee, "knee", style.good, 0.98);
  mark(SUMMARY.cliff, "cliff", style.bad, 0.9);
  return { shapes, annotations };
}

const SYMBOLS = { ok: "circle", thin: "circle-open", "client-bound": "diamond-open", void: "x" };
const symbolOf = (level) => SYMBOLS[verdictOf(level)] || "star-open";
/** A thin level is the server's too, of few requests. */
const isServers = (level) => verdictOf(level) === "ok" || verdictOf(level) === "thin";

/** A line with its band; a level that is not the server's figure has another mark, and the line goes on without it. */
function banded(name, colour, dash, value, bandOf, format) {
  const good = LAST.filter((level) => has(value(level)));
  const counts = good.filter(isServers);
  const rest = good.filter((level) => !isServers(level));
  const known = counts.filter((level) => Array.isArray(bandOf(level)) && bandOf(level).every(has));
  const group = { legendgroup: name, hoverinfo: "skip", showlegend: false, mode: "lines", line: { width: 0 } };
  const hover = (level) => {
    const verdict = verdictOf(level) === "thin" ? " (thin: few requests)" : verdictOf(level) === "ok" ? "" : ` (${verdictOf(level)})`;
    return `${plain(nameOf(level))}: ${name} ${format(value(level))} ${interval(bandOf(level), format)}${verdict}`;
  };
  const traces = [
    { ...group, x: known.map(placeOf), y: known.map((level) => bandOf(level)[0]) },
    { ...group, x: known.map(placeOf), y: known.map((level) => bandOf(level)[1]), fill: "tonexty", fillcolor: faded(colour, 0.2) },
    { name, legendgroup: name, x: counts.map(placeOf), y: counts.map(value), mode: "lines+markers", line: { color: colour, dash, width: 2 }, marker: { size: counts.map((level) => (verdictOf(level) === "ok" ? 7 : 9)), symbol: counts.map(symbolOf), color: colour, opacity: 1 }, text: counts.map(hover), hoverinfo: "text" },
  ];
  if (rest.length) traces.push({ name: `${name}, not the server's`, legendgroup: name, x: rest.map(placeOf), y: rest.map(value), mode: "markers", marker: { color: colour, size: 10, symbol: rest.map(symbolOf) }, text: rest.map(hover), hoverinfo: "text" });
  return traces;
}

function levelOptions() {
  return LEVELS.map((level) => [String(level.level), nameAmongAll(level)]);
}

function curvesOf(metric) {
  const curves = new Map(list(DATA.curves).map((curve) => [curve.level, curve.metrics[metric]]));
  return LAST.filter((level) => has(curves.get(level.level))).map((level) => [level, curves.get(level.level)]);
}
