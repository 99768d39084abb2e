// Levels: their names, where they lie on the axis of load, and what is drawn over it.

const METRICS = [["e2el", "end to end"], ["ttft", "time to first token"], ["tpot", "time per output token"], ["itl", "gap between chunks"]];
const PERCENTILES = [["median", "p50"], ["p95", "p95"], ["p99", "p99"]];
const LEVELS = list(SUMMARY.levels);
const verdictOf = (level) => level.certificate?.verdict || "void";

function nameOf(level) {
  const again = level.attempt > 1 ? `, try ${level.attempt}` : "";
  if (has(level.cell) && (has(level.cell.prompt_chars) || has(level.cell.max_tokens))) {
    const part = (value, unit) => (has(value) ? `${value} ${unit}` : null);
    return [part(level.cell.prompt_chars, "chars"), part(level.cell.max_tokens, "tokens")].filter(has).join(" × ") + again;
  }
  const role = has(level.role) && level.role ? `${level.role}, ` : "";
  return role + (has(level.concurrency) ? `${level.concurrency} in flight` : `${level.request_rate} req/s`) + again;
}

/** Of each load the level that was driven last. */
const LAST = LEVELS.filter((level, at) => !LEVELS.some((other, later) => later > at && nameOf({ ...other, attempt: 1 }) === nameOf({ ...level, attempt: 1 })));
const loadOf = (level) => level.concurrency ?? level.request_rate;
const isLine = LAST.every((level) => Number.isFinite(loadOf(level))) && new Set(LAST.map(loadOf)).size === LAST.length;
const isOpen = LAST.some((level) => has(level.request_rate));
const isWide = isLine && LAST.length > 1 && Math.max(...LAST.map(loadOf)) >= 12 * Math.min(...LAST.map(loadOf));
const placeOf = (level) => (isLine ? loadOf(level) : plain(nameOf(level)));
const LOAD = isOpen ? "requests per second asked for" : "requests in flight (concurrency)";

function loadAxis(style, more) {
  if (!isLine) return axis(style, "", { type: "category", tickangle: style.narrow ? -60 : "auto", ...more });
  const loads = LAST.map(loadOf);
  const apart = loads.filter((load, at) => at === 0 || !isWide || load / loads[at - 1] >= 1.25 || loads.length < 9);
  return axis(style, LOAD, { type: isWide ? "log" : "linear", tickvals: apart, ticktext: apart.map((load) => digits(load)), ...more });
}

/** Knee and cliff, each as a line, with its interval as a band where it has one. */
function marks(style) {
  if (!isLine) return { shapes: [], annotations: [] };
  const shapes = [], annotations = [];
  const at = (value) => (isWide ? Math.log10(value) : value);
  const mark = (found, name, colour, y) => {
    const place = found?.estimate?.at ?? found?.concurrency ?? found?.request_rate;
    if (!Number.isFinite(place)) return;
    const interval = found?.estimate?.ci;
    shapes.push({ type: "line", x0: place, x1: place, yref: "paper", y0: 0, y1: 1, line: { color: colour, width: 2, dash: name === "knee" ? "dash" : "dot" } });
    if (Array.isArray(interval) && interval.every(Number.isFinite)) {
      shapes.push({ type: "rect", x0: interval[0], x1: interval[1], yref: "paper", y0: 0, y1: 1, fillcolor: faded(colour, 0.14), line: { width: 0 }, layer: "below" });
    }
    annotations.push({ x: at(place), y, yref: "paper", text: `${name} ${digits(place)}`, showarrow: false, xanchor: "left", xshift: 4, font: { color: colour } });
  };
  mark(SUMMARY.knee, "knee", style.good, 0.98);
  mark(SUMMARY.cliff, "cliff", style.bad, 0.9);
  return { shapes, annotations };
}

const SYMBOLS = { ok: "circle", "client-bound": "diamond-open", void: "x" };
const symbolOf = (level) => SYMBOLS[verdictOf(level)] || "circle-open";

/** A line with its band; a level that is not the server's figure has another mark, and the line goes on without it. */
function banded(name, colour, dash, value, interval, format) {
  const good = LAST.filter((level) => has(value(level)));
  const counts = good.filter((level) => verdictOf(level) === "ok");
  const rest = good.filter((level) => verdictOf(level) !== "ok");
  const known = counts.filter((level) => Array.isArray(interval(level)) && interval(level).every(has));
  const group = { legendgroup: name, hoverinfo: "skip", showlegend: false, mode: "lines", line: { width: 0 } };
  const hover = (level) => {
    const band = interval(level);
    const words = Array.isArray(band) && band.every(has) ? ` [${format(band[0])}, ${format(band[1])}]` : "";
    return `${plain(nameOf(level))}: ${name} ${format(value(level))}${words}${verdictOf(level) === "ok" ? "" : ` (${verdictOf(level)})`}`;
  };
  const traces = [
    { ...group, x: known.map(placeOf), y: known.map((level) => interval(level)[0]) },
    { ...group, x: known.map(placeOf), y: known.map((level) => interval(level)[1]), fill: "tonexty", fillcolor: faded(colour, 0.2) },
    { name, legendgroup: name, x: counts.map(placeOf), y: counts.map(value), mode: "lines+markers", line: { color: colour, dash, width: 2 }, marker: { size: 7 }, text: counts.map(hover), hoverinfo: "text" },
  ];
  if (rest.length) traces.push({ name: `${name}, not the server's`, legendgroup: name, x: rest.map(placeOf), y: rest.map(value), mode: "markers", marker: { color: colour, size: 10, symbol: rest.map(symbolOf) }, text: rest.map(hover), hoverinfo: "text" });
  return traces;
}

function levelOptions() {
  return LEVELS.map((level) => [String(level.level), nameOf(level)]);
}

function curvesOf(metric) {
  const curves = new Map(list(DATA.curves).map((curve) => [curve.level, curve.metrics[metric]]));
  return LAST.filter((level) => has(curves.get(level.level))).map((level) => [level, curves.get(level.level)]);
}
