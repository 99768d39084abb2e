// Calculators with sliders: memory of the KV cache against the cards' memory, and cost per user. What the run measured is
// drawn over what is computed, and told apart from it.

const CALC = SUMMARY.calculators || {};
const GIB = 1024 ** 3;

/** A slider and a number that say the same. */
function slider(parent, words, value, [low, high, step], changed) {
  const range = el("input", { type: "range", min: low, max: Math.max(high, value), step, value, "aria-label": words });
  const number = el("input", { type: "number", min: 0, step: "any", value, "aria-label": `${words}, exactly` });
  const state = { value };
  const take = (from, to) => from.addEventListener("input", () => {
    const next = Number(from.value);
    if (from.value === "" || !Number.isFinite(next) || next < 0) return;
    state.value = next;
    to.value = from.value;
    changed();
  });
  take(range, number);
  take(number, range);
  parent.append(el("label", null, el("span", null, words), range, number));
  return state;
}

/** GiB of one user's keys and values. */
const perUser = ({ layers, width, tokens, bytes }) => (2 * layers * width * tokens * bytes) / GIB;

/** The first user over a line: 0 when the weights alone are over it. */
function firstOver(line, weights, each) {
  if (weights > line) return 0;
  if (!(each > 0)) return null;
  let user = Math.max(0, Math.floor((line - weights) / each) - 1);
  while (weights + user * each <= line) user += 1;
  return user;
}

function drawKv() {
  const here = section("kv", "KV cache against memory", "Computed, not measured: GiB = 2 × layers × width × tokens × users × bytes / 1024³, on top of the weights. The width is the hidden size, or KV heads × head size where attention is grouped.");
  const from = CALC.kv || {};
  const measured = CALC.measured || {};
  const box = el("div", { class: "sliders" });
  const again = () => redraw();
  const knee = isOpen ? null : SUMMARY.knee?.estimate?.at ?? SUMMARY.knee?.concurrency;
  // The measured knee is to be seen without a search for it.
  const most = Math.max(from.users ?? 20, has(knee) ? Math.ceil(knee * 1.25) : 0);
  const users = slider(box, "users at most", most, [1, 512, 1], again);
  const tokens = slider(box, "tokens of each user", from.seq_len ?? 8192, [128, 131072, 128], again);
  const layers = slider(box, "layers", from.layers ?? 80, [1, 160, 1], again);
  const hidden = slider(box, "width: hidden size", from.hidden ?? 8192, [64, 16384, 64], again);
  const heads = slider(box, "KV heads (0: not grouped)", from.kv_heads ?? 0, [0, 128, 1], again);
  const size = slider(box, "head size, where grouped", from.head_dim ?? 128, [16, 512, 16], again);
  const bytes = slider(box, "bytes of a value", from.bytes ?? 2, [0.5, 4, 0.5], again);
  const weights = slider(box, "weights, GiB", from.weights_gib ?? 130, [0, 1500, 0.5], again);
  const lines = list(from.lines_gib).length ? from.lines_gib : [80, 141];
  const limits = lines.map((line, at) => slider(box, `memory line ${at + 1}, GiB`, line, [8, 1500, 1], again));
  here.append(box);
  const words = el("p", { "aria-live": "polite" });
  here.append(words);
  const now = () => ({ layers: layers.value, width: heads.value > 0 ? heads.value * size.value : hidden.value, tokens: tokens.value, bytes: bytes.value });
  const said = () => {
    const each = perUser(now());
    const parts = limits.map(({ value }) => {
      const first = firstOver(value, weights.value, each);
      if (first === null) return `${digits(value)} GiB: never crossed`;
      return first === 0 ? `${digits(value)} GiB: the weights alone do not fit` : `${digits(value)} GiB: user ${first} is the first over it`;
    });
    const run = has(knee) ? ` Measured knee of this run: ${digits(knee)} in flight${measured.tokens_per_request ? `, at ${digits(measured.tokens_per_request)} tokens a request` : ""}.` : "";
    words.textContent = `One user takes ${digits(each)} GiB. ${parts.join("; ")}.${run}`;
  };
  const made = figure(here, {
    id: "plot-kv", title: "Memory by users", height: 400, label: "Computed memory of weights and KV cache by users, lines of the cards' memory, and the measured throughput over it",
    caption: "The line is computed; what this run measured lies over it on the right axis, with its knee.",
    draw: (_, style) => {
      const each = perUser(now());
      const most = Math.max(1, Math.round(users.value));
      const x = Array.from({ length: Math.min(most, 400) + 1 }, (_, at, of = Math.min(most, 400)) => Math.round((at * most) / of));
      const traces = [{ name: "weights + KV cache (computed), GiB", x, y: x.map((n) => weights.value + n * each), mode: "lines", line: { color: style.series[0], width: 3 } }];
      const shapes = limits.map(({ value }, at) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value, line: { color: [style.bad, style.warn][at % 2], dash: "dash", width: 1.5 } }));
      const annotations = limits.map(({ value }, at) => ({ xref: "paper", x: 0.99, y: value, yshift: 9, xanchor: "right", showarrow: false, text: `${digits(value)} GiB`, font: { color: [style.bad, style.warn][at % 2] } }));
      limits.forEach(({ value }, at) => {
        const first = firstOver(value, weights.value, each);
        if (first) traces.push({ name: `first user over ${digits(value)} GiB: ${first}`, x: [first], y: [weights.value + first * each], mode: "markers", marker: { size: 11, symbol: "star", color: [style.bad, style.warn][at % 2] } });
      });
      const layout = { xaxis: axis(style, "users (in flight)", { rangemode: "tozero", range: [0, most * 1.02] }), yaxis: axis(style, "GiB", { rangemode: "tozero" }), shapes, annotations };
      const over = isLine && !isOpen ? LAST.filter((level) => has(level.output_throughput) && loadOf(level) <= most) : [];
      if (over.length) {
        traces.push({ name: "measured: output tokens/s", x: over.map(loadOf), y: over.map((level) => level.output_throughput), yaxis: "y2", mode: "lines+markers", line: { color: style.series[3], dash: "dot" } });
        layout.yaxis2 = axis(style, "tokens/s", { overlaying: "y", side: "right", rangemode: "tozero", showgrid: false });
      }
      if (has(knee) && knee <= most) {
        shapes.push({ type: "line", x0: knee, x1: knee, yref: "paper", y0: 0, y1: 1, line: { color: style.good, dash: "dash", width: 2 } });
        annotations.push({ x: knee, y: 0.98, yref: "paper", text: "measured knee", showarrow: false, xanchor: "left", xshift: 4, font: { color: style.good } });
      }
      return { traces, layout };
    },
  });
  function redraw() {
    said();
    if (made.drawn) render(made);
  }
  said();
}

function drawCost() {
  const here = section("cost", "Cost per user", "Computed: the price of a card divided by the users that it serves at once. Put in the concurrency that you measured.");
  const cards = list(CALC.cost?.cards).length ? CALC.cost.cards : [{ price_usd: 12000, concurrency: 5 }, { price_usd: 25000, concurrency: 20 }];
  const box = el("div", { class: "sliders" });
  const out = el("p", { "aria-live": "polite" });
  const said = () => {
    const each = inputs.map(({ price, served }) => (served.value > 0 ? price.value / served.value : NaN));
    out.textContent = each.map((cost, at) => `card ${at + 1}: $${digits(cost)} per user at once`).join("; ") + ".";
  };
  const inputs = cards.map((card, at) => ({
    price: slider(box, `card ${at + 1}: price, $`, card.price_usd, [500, 60000, 100], () => said()),
    served: slider(box, `card ${at + 1}: users at once`, card.concurrency, [1, 512, 1], () => said()),
  }));
  here.append(box, out);
  said();
}
