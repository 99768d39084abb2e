"use strict";
// The data, the document and the frame that every plot hangs in. What others wrote is inserted as text, never as markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const SUMMARY = DATA.summary;
const page = document.getElementById("report");
const figures = [];
const failures = [];

window.addEventListener("error", (event) => fail(event.message));
window.addEventListener("unhandledrejection", (event) => fail(String(event.reason)));
document.addEventListener("securitypolicyviolation", (event) => fail(`policy: ${event.violatedDirective} ${event.blockedURI}`));

function fail(text) {
  failures.push(text);
  document.documentElement.dataset.failures = JSON.stringify(failures);
}

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) made.append(child instanceof Node ? child : String(child));
  }
  return made;
}

const has = (value) => value !== null && value !== undefined;
const list = (value) => (Array.isArray(value) ? value : []);
const UNKNOWN = "not measured";

/** Four significant digits at most, without an exponent. */
function digits(value, most = 4) {
  if (!Number.isFinite(value)) return "—";
  const size = Math.abs(value);
  const places = size === 0 ? 0 : Math.max(0, most - 1 - Math.floor(Math.log10(size)));
  return value.toLocaleString("en", { maximumFractionDigits: Math.min(places, 9) });
}

function milliseconds(ms) {
  if (!Number.isFinite(ms)) return "—";
  if (Math.abs(ms) >= 1000) return `${digits(ms / 1000)} s`;
  return Math.abs(ms) >= 1 || ms === 0 ? `${digits(ms)} ms` : `${digits(ms * 1000)} µs`;
}

/** Text for the plots, which read some markup in theirs. */
function plain(text, most = 90) {
  const short = String(text).slice(0, most).replace(/\s+/g, " ");
  return short.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function section(id, title, ...intro) {
  const made = el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title));
  for (const text of intro) made.append(typeof text === "string" ? el("p", { class: "quiet" }, text) : text);
  page.append(made);
  return made;
}

function table(head, rows, label) {
  const isNumber = (value) => typeof value === "number" || (typeof value === "string" && /^[−-]?[\d.,]+( (ms|s|µs|%))?$/.test(value));
  const numeric = head.map((_, at) => rows.length > 0 && rows.every((row) => isNumber(row[at]) || row[at] === "—"));
  const cell = (tag) => (value, at) => {
    const shown = typeof value === "number" ? digits(value, 6) : value;
    const kind = numeric[at] ? "n" : String(shown).length < 24 ? "short" : null;
    return el(tag, { class: kind, scope: tag === "th" ? "col" : null }, shown);
  };
  const body = rows.map((row) => el("tr", null, row.map(cell("td"))));
  const whole = el("table", { "aria-label": label }, el("thead", null, el("tr", null, head.map(cell("th")))), el("tbody", null, body));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, whole);
}

/** A table that is made when it is opened. */
function folded(words, make, open = false) {
  const details = el("details", { open }, el("summary", null, words));
  let made = false;
  const fill = () => {
    if (details.open && !made) {
      made = true;
      details.append(make());
    }
  };
  details.addEventListener("toggle", fill);
  if (open) fill();
  return details;
}

/**
 * A plot: `draw(choices, look)` gives traces and layout, or null when there is nothing to draw; `table(choices)` the same
 * figures as [head, rows].
 */
function figure(parent, spec) {
  const choices = {};
  const plot = el("div", { class: "plot", id: spec.id, role: "img", "aria-label": spec.label });
  plot.style.height = `${spec.height || 360}px`;
  const caption = el("figcaption", null, el("b", null, `${spec.title}. `), spec.caption || "");
  const made = { spec, plot, choices, drawn: false };
  const controls = (spec.controls || []).map((control) => {
    choices[control.name] = control.value ?? control.options[0]?.[0];
    const options = control.options.map(([value, text]) => el("option", { value, selected: value === choices[control.name] }, text));
    const select = el("select", null, options);
    select.addEventListener("change", () => {
      choices[control.name] = select.value;
      if (details) details.replaceWith((details = tabled()));
      render(made);
    });
    return el("label", null, control.label, select);
  });
  const tabled = () => folded("The same as a table", () => table(...spec.table(choices), spec.title));
  let details = spec.table ? tabled() : null;
  const bar = controls.length ? el("div", { class: "controls" }, controls) : null;
  parent.append(el("figure", null, caption, bar, plot, details));
  figures.push(made);
  return made;
}

const LIGHT = { ink: "#1b1f24", quiet: "#57606a", grid: "#e3e7eb", back: "#ffffff", series: ["#0072b2", "#b85c00", "#8e2a6b", "#00795c", "#5b5bd6", "#7a5c00"], ramp: ["#9ecae1", "#4292c6", "#08519c", "#54278f", "#7a0177", "#49006a"], good: "#1a7f37", bad: "#b42318", warn: "#9a6700" };
const DARK = { ink: "#e6e9ec", quiet: "#9aa4ae", grid: "#2c333a", back: "#14171a", series: ["#56b4e9", "#f0a04b", "#e48ac1", "#4fd1a5", "#a5a5ff", "#e6c34a"], ramp: ["#2b6ca3", "#4aa3df", "#8ed0ff", "#c6a5ff", "#f29bd4", "#ffd0ec"], good: "#56c271", bad: "#ff7b6e", warn: "#e0af45" };
const dark = matchMedia("(prefers-color-scheme: dark)");
let printing = false;

function look() {
  const colours = dark.matches && !printing ? DARK : LIGHT;
  const narrow = window.innerWidth < 600;
  return { ...colours, narrow, dark: colours === DARK, step: (at, of) => between(colours.ramp, of > 1 ? at / (of - 1) : 0.5) };
}

function between(ramp, share) {
  const place = share * (ramp.length - 1);
  const low = Math.min(Math.floor(place), ramp.length - 2);
  const part = (colour, at) => parseInt(colour.slice(1 + 2 * at, 3 + 2 * at), 16);
  const mixed = [0, 1, 2].map((at) => Math.round(part(ramp[low], at) + (place - low) * (part(ramp[low + 1], at) - part(ramp[low], at))));
  return `rgb(${mixed.join(",")})`;
}

function faded(colour, share) {
  const parts = colour.startsWith("#") ? [0, 1, 2].map((at) => parseInt(colour.slice(1 + 2 * at, 3 + 2 * at), 16)) : colour.match(/\d+/g).slice(0, 3);
  return `rgba(${parts.join(",")},${share})`;
}

function axis(style, title, more) {
  return { title: { text: title, standoff: 8 }, tickformat: ",~g", gridcolor: style.grid, zerolinecolor: style.grid, linecolor: style.grid, automargin: true, ...more };
}

/** A logarithmic axis of ms, ticked at 1, 2 and 5 where it is short and at every power of ten where it is long. */
function logMilliseconds(style, values, more) {
  const known = values.filter((value) => value > 0);
  const [low, high] = [Math.min(...known), Math.max(...known)].map(Math.log10);
  const steps = high - low < 2.2 ? [1, 2, 5] : [1];
  const finer = high - low < 0.8 ? [1, 1.5, 2, 3, 4, 5, 6, 8] : steps;
  const ticks = [];
  for (let power = Math.floor(low) - 1; power <= Math.ceil(high) + 1; power += 1) ticks.push(...finer.map((step) => step * 10 ** power));
  return axis(style, "", { type: "log", tickvals: ticks, ticktext: ticks.map(milliseconds), ...more });
}

const categories = (style) => axis(style, "", { type: "category", tickangle: style.narrow ? -60 : "auto" });

/** A legend over the plot, where the names under it may be long. */
const above = (style) => ({ orientation: "h", y: 1.02, x: 0, yanchor: "bottom", font: { size: style.narrow ? 10 : 12 } });

/** Marks on a bar beside its colour, for eyes and paper without colours. */
const hatched = (style, shape) => ({ shape, fillmode: "overlay", fgcolor: style.back, fgopacity: 0.45, size: 7, solidity: 0.2 });

function framed(style, layout) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: style.ink, family: "system-ui, sans-serif", size: style.narrow ? 11 : 13 },
    margin: { l: style.narrow ? 44 : 60, r: style.narrow ? 12 : 24, t: style.narrow ? 12 : 30, b: 44 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: style.quiet, activecolor: style.ink },
    legend: { orientation: "h", y: -0.22, x: 0, yanchor: "top", font: { size: style.narrow ? 10 : 12 } },
    hoverlabel: { bgcolor: style.back, bordercolor: style.quiet, font: { color: style.ink }, namelength: -1 },
    dragmode: style.narrow ? false : "zoom",
    ...layout,
  };
}

function render(made) {
  const style = look();
  const drawing = made.spec.draw(made.choices, style);
  if (!drawing) {
    made.plot.parentElement.querySelectorAll("details, .controls").forEach((part) => part.remove());
    made.plot.style.height = "auto";
    made.plot.removeAttribute("role");
    made.plot.replaceChildren(el("p", { class: "quiet" }, made.spec.empty || UNKNOWN));
    made.points = 0;
    return;
  }
  const layout = framed(style, drawing.layout);
  if (printing) layout.width = 680;
  const config = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  if (style.narrow) config.displayModeBar = false;
  Plotly.react(made.plot, drawing.traces, layout, config);
  made.points = drawing.traces.reduce((sum, trace) => sum + size(trace), 0);
  made.drawn = true;
}

/** Values of a trace that are there. */
function size(trace) {
  const values = trace.z ? trace.z.flat() : trace.median || (trace.orientation === "h" ? trace.x : trace.y) || [];
  return Array.from(values).filter(has).length;
}
