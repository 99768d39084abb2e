// The order of the page; then the library, and one plot after the other, so that a long report opens at once.

const PARTS = [drawHead, drawFound, drawBaseline, drawGrid, drawOverload, drawCurve, drawLatency, drawErrors, drawInside, drawHeat, drawTimeline, drawWaterfall, drawKv, drawCost, drawCertificates, drawNodes, drawEnvironment, drawDoubt];

page.replaceChildren();
for (const part of PARTS) {
  try {
    part();
  } catch (error) {
    fail(`${part.name}: ${error}`);
    page.append(el("p", { class: "error" }, `This part could not be shown (${error}); summary.json has its figures.`));
  }
}
const links = [...page.querySelectorAll("section")].map((s) => el("a", { href: `#${s.id}` }, s.querySelector("h2").textContent));
page.querySelector("header")?.append(el("nav", { "aria-label": "Parts of the report" }, links));

/** The library travels compressed, and is run as a script of its own, whose hash the page's policy names. */
async function library() {
  if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old to unpack the plotting library");
  const packed = Uint8Array.from(atob(document.getElementById("library").textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  document.head.append(el("script", null, await new Response(stream).text()));
  if (typeof Plotly === "undefined") throw new Error("the plotting library did not start");
}

function renderSafely(made) {
  try {
    render(made);
  } catch (error) {
    fail(`${made.spec.id}: ${error.stack || error}`);
    made.plot.replaceChildren(el("p", { class: "error" }, `This plot could not be drawn: ${error}`));
  }
}

const pause = () => new Promise((next) => setTimeout(next, 0));

async function drawAll() {
  try {
    await library();
  } catch (error) {
    fail(String(error));
    figures.forEach(({ plot }) => plot.replaceChildren(el("p", { class: "error" }, `No plot: ${error.message}.`)));
    return;
  }
  for (const made of figures) {
    renderSafely(made);
    await pause();
  }
  // What a test reads: every plot with the number of values in it.
  document.documentElement.dataset.drawn = JSON.stringify(Object.fromEntries(figures.map(({ spec, points }) => [spec.id, points ?? 0])));
}

const redrawAll = () => figures.filter((made) => made.drawn).forEach(renderSafely);
dark.addEventListener("change", redrawAll);
matchMedia("(max-width: 599px)").addEventListener("change", redrawAll);
window.addEventListener("beforeprint", () => { printing = true; redrawAll(); });
window.addEventListener("afterprint", () => { printing = false; redrawAll(); });
drawAll();
