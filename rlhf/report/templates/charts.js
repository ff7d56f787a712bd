// The figures that pictures.py describes: settings as rows (data.forests), and curves of the settings that the reader
// picks, the others in grey.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const labels = Object.fromEntries(data.groups.map((group) => [group.id, group.label]));
const order = data.groups.map((group) => group.id);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const CONFIG = { responsive: true, displayModeBar: false };
const NARROW = 520; // below it, long names of settings take two lines
const DASHES = { solid: "", dash: "6 4", dashdot: "7 3 2 3", dot: "2 3", longdash: "11 4", longdashdot: "11 3 2 3" };
const MOST_RUNS = 400; // single runs in one figure

// A slot of data.looks for each setting that is coloured, by its id.
const slots = new Map(data.shown.map((id, place) => [id, place]));

// Data files call report.loaded, since a page opened as a file can't fetch.
const metrics = {};
const waiting = {};
window.report = {
  loaded(name, content) {
    metrics[name] = content;
    (waiting[name] || []).forEach((use) => use(content));
    delete waiting[name];
  },
};

function withMetric(name, use) {
  if (metrics[name]) return use(metrics[name]);
  if (waiting[name]) return void waiting[name].push(use);
  waiting[name] = [use];
  const script = document.createElement("script");
  script.src = data.metrics[name].file;
  document.head.append(script);
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// Okabe and Ito's colours, with more light on a dark page.
const LIGHTER = { "#0072B2": "#4AA5E0", "#D55E00": "#F0803C", "#009E73": "#2BBF95", "#CC79A7": "#DE9CC1", "#767676": "#8f98a1" };
function toned(value) {
  return (dark.matches && LIGHTER[value]) || value;
}

function faint(value, opacity) {
  const parts = [1, 3, 5].map((start) => parseInt(value.slice(start, start + 2), 16));
  return `rgba(${parts.join(",")},${opacity})`;
}

function axis(more) {
  if (more.title) more.title = { ...more.title, font: { size: 13, color: color("muted") } };
  return { gridcolor: color("rule"), linecolor: color("rule"), zerolinecolor: color("rule"), automargin: true, ...more };
}

function layout(more) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 13, color: color("ink") },
    hoverlabel: { bgcolor: color("surface"), bordercolor: color("rule"), font: { color: color("ink") } },
    margin: { l: 8, r: 12, t: 24, b: 8 },
    dragmode: window.matchMedia("(pointer: fine)").matches ? "zoom" : false, // on a phone a drag scrolls the page
    hovermode: "closest",
    ...more,
  };
}

// Of a series the marks, and how far a second one stands below the first.
const SERIES = [
  { color: "#0072B2", symbol: "circle", size: 9, thickness: 1.6, width: 4 },
  { color: "#E69F00", symbol: "square-open", size: 7, thickness: 1, width: 3 },
];
const BELOW = 0.32;
const ROW_HEIGHT = 26;
const FRAME = 90; // around the rows, in pixels
const GREY = "#767676";

function runMarks(forest) {
  const [x, y, text] = [0, 1, 2].map((place) => forest.runs.map((run) => run[place]));
  const marker = { symbol: "line-ns-open", size: 8, color: toned(GREY), opacity: 0.75 };
  return { x, y, text, mode: "markers", marker, hovertemplate: "%{text}: %{x:.1f}<extra></extra>" };
}

function meanMarks(forest, name, place) {
  const { thickness, width, ...marker } = SERIES[place];
  const [rows, x, low, high] = columns(forest.series[name]);
  marker.color = toned(marker.color);
  const text = forest.series[name].map(([row, mean, least, most]) => {
    const [middle, ...ends] = [mean, least, most].map((value) => value.toFixed(1));
    return `${forest.labels[row]}, ${name}: ${middle}${ends[0] === ends[1] ? "" : ` [${ends.join(", ")}]`}`;
  });
  return {
    x, y: rows.map((row) => row + BELOW * place), text, mode: "markers", marker, hovertemplate: "%{text}<extra></extra>",
    error_x: { type: "data", symmetric: false, array: high.map((end, at) => end - x[at]), arrayminus: low.map((end, at) => x[at] - end), color: marker.color, thickness, width },
  };
}

function drawForest(element) {
  const forest = data.forests[element.dataset.forest];
  const narrow = element.clientWidth < NARROW;
  const count = forest.labels.length;
  const labels = narrow ? forest.labels.map((name) => name.replace(" (", "<br>(")) : forest.labels;
  const yaxis = { range: [count - 0.4, -0.6], zeroline: false, ticklabelstandoff: 6, tickvals: labels.map((_, place) => place), ticktext: labels };
  if (narrow) yaxis.tickfont = { size: 11 };
  const more = { height: FRAME + (ROW_HEIGHT + 6 * narrow) * count, showlegend: false, margin: { l: 8, r: 12, t: 24, b: 44 } };
  if (forest.sft !== null) {
    more.shapes = [{ type: "line", x0: forest.sft, x1: forest.sft, yref: "paper", y0: 0, y1: 1, line: { color: toned(GREY), dash: "dash", width: 1.2 } }];
    more.annotations = [{ text: `SFT ${forest.sft.toFixed(1)}`, x: forest.sft, yref: "paper", y: 1, yanchor: "bottom", showarrow: false, font: { color: color("muted"), size: 12 } }];
  }
  const axes = { xaxis: axis({ title: { text: forest.title, standoff: 8 }, zeroline: false }), yaxis: axis(yaxis) };
  Plotly.react(element, [runMarks(forest), ...Object.keys(forest.series).map((name, place) => meanMarks(forest, name, place))], layout({ ...more, ...axes }), CONFIG);
}

function columns(points) {
  return [0, 1, 2, 3].map((place) => points.map((point) => point[place]));
}

function grey(id, points) {
  const [x, y] = columns(points);
  return { x, y, mode: "lines", line: { color: color("faint"), width: 1.2 }, hovertemplate: `${labels[id]}<br>%{x}: %{y:.4g}<extra></extra>` };
}

function coloured(id, points, bars) {
  const look = data.looks[slots.get(id)];
  const [x, y, low, high] = columns(points);
  const tone = toned(look.color);
  const trace = {
    x, y, customdata: low.map((value, place) => [value, high[place]]),
    mode: bars ? "lines+markers" : "lines",
    line: { color: tone, width: 2.2, dash: look.dash },
    marker: { color: tone, symbol: look.symbol, size: 7 },
    hovertemplate: `${labels[id]}<br>%{x}: %{y:.4g} [%{customdata[0]:.4g}, %{customdata[1]:.4g}]<extra></extra>`,
  };
  if (bars) {
    trace.error_y = { type: "data", symmetric: false, array: high.map((value, place) => value - y[place]), arrayminus: low.map((value, place) => y[place] - value), color: faint(tone, 0.6), thickness: 1.3, width: 2 };
    return [trace];
  }
  const band = { x: [...x, ...x.slice().reverse()], y: [...high, ...low.slice().reverse()], fill: "toself", fillcolor: faint(tone, 0.16), line: { width: 0 }, mode: "lines", hoverinfo: "skip" };
  return [band, trace];
}

function traces(means, bars) {
  const picked = order.filter((id) => slots.has(id) && means[id]?.length);
  const others = order.filter((id) => data.compared.includes(id) && !slots.has(id) && means[id]?.length);
  return [...others.map((id) => grey(id, means[id])), ...picked.flatMap((id) => coloured(id, means[id], bars))];
}

// What the coloured settings span, so that a grey one that went far away does not flatten them.
function span(means, places, log) {
  const values = [...slots.keys()].flatMap((id) => (means[id] || []).flatMap((point) => places.map((place) => point[place])));
  const known = log ? values.filter((value) => value > 0).map(Math.log10) : values;
  if (!known.length) return undefined;
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const pad = 0.05 * (high - low || Math.abs(high) || 1);
  return [low - pad, high + pad];
}

function drawPath(element) {
  const name = element.dataset.path;
  const means = data.paths[name];
  const [against, rate] = data.axes[name];
  const axes = {
    xaxis: axis({ title: { text: against }, range: span(means, [0]) }),
    yaxis: axis({ title: { text: rate }, range: span(means, [2, 3]) }),
  };
  Plotly.react(element, traces(means, true), layout({ ...axes, height: 380, showlegend: false }), CONFIG);
}

function singleRuns(lines) {
  const found = order.filter((id) => slots.has(id)).flatMap((id) => (lines[id] || []).map((run) => [id, run]));
  return found.slice(0, MOST_RUNS).map(([id, run]) => ({
    x: run.x, y: run.y, mode: "lines", hovertemplate: `${labels[id]}, one run<br>%{x}: %{y:.4g}<extra></extra>`,
    line: { color: faint(toned(data.looks[slots.get(id)].color), 0.45), width: 1 },
  }));
}

function drawTraining() {
  const name = document.getElementById("metric").value;
  withMetric(name, (content) => {
    if (document.getElementById("metric").value !== name) return;
    const single = document.getElementById("single").checked ? singleRuns(content.lines) : [];
    const log = document.getElementById("log").checked;
    const axes = {
      xaxis: axis({ title: { text: "PPO step" } }),
      yaxis: axis({ title: { text: data.metrics[name].label }, type: log ? "log" : "linear", range: single.length ? undefined : span(content.means, log ? [1] : [2, 3], log) }),
    };
    const chart = document.getElementById("training-chart");
    Plotly.react(chart, [...traces(content.means, content.pooled), ...single], layout({ ...axes, height: 430, showlegend: false }), CONFIG);
    document.getElementById("training-note").textContent = content.pooled
      ? "Means over worlds and seeds with their 95 % interval."
      : "Means over runs; bands are their standard error, and a setting of one run has none.";
  });
}

function swatch(look) {
  const line = `<line x1="1" y1="5" x2="29" y2="5" stroke="${toned(look.color)}" stroke-width="2.5" stroke-dasharray="${DASHES[look.dash]}"/>`;
  return `<svg viewBox="0 0 30 10" aria-hidden="true">${line}</svg>`;
}

// Where every colour is taken, the setting that was picked first gives up its own.
function pick(id) {
  if (slots.size === data.looks.length) slots.delete(slots.keys().next().value);
  const used = new Set(slots.values());
  slots.set(id, data.looks.findIndex((_, place) => !used.has(place)));
}

function chip(id) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.group = id;
  button.append(document.createTextNode(labels[id]));
  button.addEventListener("click", () => {
    if (slots.has(id)) slots.delete(id);
    else pick(id);
    update();
  });
  return button;
}

function fillPicker(picker) {
  const others = order.filter((id) => !data.compared.includes(id));
  picker.append(...order.filter((id) => data.compared.includes(id)).map(chip));
  if (others.length) {
    const more = document.createElement("details");
    const box = document.createElement("div");
    more.append(Object.assign(document.createElement("summary"), { textContent: `${others.length} other settings` }), box);
    box.append(...others.map(chip));
    picker.append(more);
  }
}

function updateChips() {
  for (const button of document.querySelectorAll(".picker button")) {
    const slot = slots.get(button.dataset.group);
    button.setAttribute("aria-pressed", String(slot !== undefined));
    button.querySelector("svg")?.remove();
    if (slot !== undefined) button.insertAdjacentHTML("afterbegin", swatch(data.looks[slot]));
  }
}

function update() {
  updateChips();
  document.querySelectorAll("[data-path]").forEach(drawPath);
  drawTraining();
}

function drawAll() {
  document.querySelectorAll("[data-forest]").forEach(drawForest);
  update();
}

document.querySelectorAll(".picker").forEach(fillPicker);
for (const id of ["metric", "single", "log"]) document.getElementById(id).addEventListener("change", drawTraining);
dark.addEventListener("change", drawAll);
drawAll();
