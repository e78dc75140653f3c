// Curves of metrics, by uPlot.

const COLOURS = ["--series-a", "--series-b", "--series-c", "--series-d", "--series-e", "--series-f"];
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const charts = new Set();

function dropCharts() {
  for (const chart of charts) chart.destroy();
  charts.clear();
}
function fitCharts() {
  for (const chart of charts) {
    const width = chart.root.parentElement.clientWidth;
    if (width && width !== chart.width) chart.setSize({ width, height: chart.height });
  }
}

// How far marks of an axis may lie apart where there is nothing between whole numbers.
const WHOLE = Array.from({ length: 15 }, (_, power) => [1, 2, 2.5, 5].map((k) => k * 10 ** power)).flat().filter(Number.isInteger);

// series: [{label, colour, width, dash, points, xs, ys, fill}]; a chart that is drawn when it is seen.
function chart(title, series, { height = 190, marks = [], xLabel = "", sync = null, stepped = false } = {}) {
  const known = series.filter((one) => one.ys.some((y) => y !== null));
  const box = el("figure", { class: "chart" }, el("figcaption", {}, foreign(title)));
  if (!known.length) {
    box.append(el("p", { class: "empty" }, "No finite values."));
    return box;
  }
  const canvas = el("div", { class: "canvas", role: "img", "aria-label": spoken(title, known, xLabel) });
  canvas.style.minHeight = `${height}px`;
  box.append(canvas);
  const watch = new IntersectionObserver((seen) => {
    if (!seen.some((one) => one.isIntersecting)) return;
    watch.disconnect();
    draw();
  });
  watch.observe(box);
  function draw() {
    const data = uPlot.join(known.map((one) => [one.xs, one.ys]));
    const [whole, ...wholes] = data.map((values) => values.every((value) => value === null || value === undefined || Number.isInteger(value)));
    const axis = { stroke: css("--dim"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line"), width: 1 }, font: "12px system-ui, sans-serif" };
    const options = {
      width: canvas.clientWidth || 300,
      height,
      padding: [8, 16, 0, 0],
      cursor: { sync: sync ? { key: sync } : undefined, drag: { x: true, y: false }, points: { size: 7 } },
      legend: { live: true },
      scales: { x: { time: false }, y: { range: room } },
      axes: [
        { ...axis, values: (_, splits) => ticks(splits), size: 28, incrs: whole ? WHOLE : undefined },
        { ...axis, values: (_, splits) => ticks(splits), incrs: wholes.every(Boolean) ? WHOLE : undefined, size: (_, ticks) => 16 + 7 * Math.max(3, ...(ticks || []).map((text) => text.length)) },
      ],
      series: [
        { label: xLabel, value: (_, value) => fmt(value) },
        ...known.map((one) => ({
          label: one.label,
          stroke: css(one.colour),
          width: one.width ?? 2,
          dash: one.dash,
          alpha: one.alpha,
          spanGaps: true,
          points: { show: one.points ?? undefined, size: 6 },
          paths: stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
          value: (_, value) => fmt(value),
        })),
      ],
      bands: known.flatMap((one, index) => (one.band ? [{ series: [index + 1, index + 2], fill: `${css(one.colour)}26` }] : [])),
      hooks: { draw: [(plot) => drawMarks(plot, marks)] },
    };
    charts.add(new uPlot(options, data, canvas));
  }
  return box;
}

function room(_, low, high) {
  if (low === null) return [0, 1];
  const space = (high - low || Math.abs(high) || 1) * 0.08;
  return [low - space, high + space];
}
// The marks of an axis in one form: all of them are powers of ten if none is larger than 0.001.
function ticks(splits) {
  const small = splits.every((value) => Math.abs(value) < 1.0001e-3);
  return splits.map((value) => (small && value ? value.toExponential().replace(/(\.\d\d)\d+/, "$1") : tick(value)));
}
function tick(value) {
  const size = Math.abs(value);
  if (size >= 1e9) return `${Number((value / 1e9).toPrecision(3))}G`;
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`;
  return String(Number(value.toPrecision(6)));
}

// Broken lines where the policy was evaluated.
function drawMarks(plot, marks) {
  if (!marks.length) return;
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.strokeStyle = css("--mark");
  ctx.setLineDash([4, 4]);
  ctx.lineWidth = devicePixelRatio;
  for (const mark of marks) {
    const x = plot.valToPos(mark, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}

// What a screen reader says in place of a picture.
function spoken(title, series, xLabel) {
  const parts = series.filter((one) => !one.silent).map((one) => {
    const ys = one.ys.filter((y) => y !== null && Number.isFinite(y));
    if (!ys.length) return `${one.label}: no finite values`;
    const [low, high] = ys.reduce(([a, b], y) => [Math.min(a, y), Math.max(b, y)], [Infinity, -Infinity]);
    return `${one.label}: from ${fmt(ys[0])} to ${fmt(ys.at(-1))}, lowest ${fmt(low)}, highest ${fmt(high)}`;
  });
  return plainly(`Curve of ${title} over ${xLabel}. ${parts.join(". ")}`);
}

// --- metrics -------------------------------------------------------------------------------------

const FIRST = [
  "reward", "accuracy", "eval/accuracy", "eval/reward", "rollout/ep_rew_mean", "frac_reward_zero_std", "reward_std",
  "entropy", "kl", "completions/mean_length", "completions/clipped_ratio", "grad_norm", "learning_rate", "loss",
  "rollout/ep_len_mean", "train/explained_variance", "train/approx_kl", "train/entropy_loss", "train/clip_fraction",
  "train/value_loss", "train/policy_gradient_loss",
];
const BOUNDS = /_(low|high)$/;
const GROUPS = [
  ["What was learnt", (name) => FIRST.includes(name) || name.startsWith("rewards/") || name.startsWith("eval/") || name.startsWith("rollout/")],
  ["How the update went", (name) => !/^(strategy|time|sampling|completions)\//.test(name) && name !== "step_time" && name !== "num_tokens"],
  ["Completions and sampling", (name) => /^(completions|sampling)\//.test(name)],
  ["Strategy", (name) => name.startsWith("strategy/")],
  ["Time and tokens", () => true],
];

function rank(name) {
  const at = FIRST.indexOf(name);
  return at < 0 ? FIRST.length : at;
}
function valuesOf(run, name) {
  return (run.metrics[name] || []).map((value) => {
    const found = number(value);
    return found !== null && Number.isFinite(found) ? found : null;
  });
}
function smooth(values, over) {
  const known = [];
  return values.map((value) => {
    if (value === null) return null;
    known.push(value);
    const last = known.slice(-over);
    return last.reduce((sum, each) => sum + each, 0) / last.length;
  });
}
// Whether a curve goes up and down so often that a mean of it is easier to read.
function turns(ys) {
  let often = 0;
  for (let i = 2; i < ys.length; i++) if ((ys[i] - ys[i - 1]) * (ys[i - 1] - ys[i - 2]) < 0) often++;
  return often > ys.length / 5;
}
// Increasing places alone: a chart can't go back, and a run that went on may have a step twice.
function curve(xs, ys) {
  const keep = [];
  for (let i = 0, last = -Infinity; i < xs.length; i++) {
    const x = number(xs[i]);
    if (Number.isFinite(x) && x > last && ys[i] !== null) { keep.push(i); last = x; }
  }
  return { xs: keep.map((i) => number(xs[i])), ys: keep.map((i) => ys[i]) };
}

function metricSeries(name, axis) {
  return runs().flatMap((run, index) => {
    if (!run.metrics[name] || !run.axes[axis]) return [];
    const label = runs().length > 1 ? NAMES[index] : "value";
    const { xs, ys } = curve(run.axes[axis], valuesOf(run, name));
    const colour = COLOURS[index];
    const low = name === "eval/accuracy" && run.metrics["eval/accuracy_low"];
    if (low) {
      const bounds = ["high", "low"].map((end) => curve(run.axes[axis], valuesOf(run, `${name}_${end}`)));
      return [
        { label, colour, xs, ys, points: true },
        { label: "95% high", colour, width: 0.5, silent: true, points: false, band: true, ...bounds[0] },
        { label: "95% low", colour, width: 0.5, silent: true, points: false, ...bounds[1] },
      ];
    }
    if (ys.length < 30 || !turns(ys)) return [{ label, colour, xs, ys, points: ys.length < 3 || name.startsWith("eval/") ? true : undefined }];
    return [
      { label, colour, xs, ys, width: 1, alpha: 0.4, points: false },
      { label: runs().length > 1 ? `${label}, mean of 10` : "mean of 10", colour, xs, ys: smooth(ys, 10), points: false, silent: true },
    ];
  });
}

// The places of a run at which there was an evaluation.
function evaluated(axis) {
  return runs().flatMap((run) => {
    const names = Object.keys(run.metrics).filter((name) => name.startsWith("eval/"));
    const xs = run.axes[axis] || [];
    return xs.filter((_, row) => names.some((name) => run.metrics[name][row] !== null)).map(number);
  });
}

function curves(at) {
  const axes = [...new Set(runs().flatMap((run) => Object.keys(run.axes)))];
  const axis = axes.includes(at.get("x")) ? at.get("x") : "steps";
  const names = [...new Set(runs().flatMap((run) => Object.keys(run.metrics)))]
    .filter((name) => !BOUNDS.test(name) || !name.startsWith("eval/"))
    .filter((name) => !["step", "epoch"].includes(name));
  if (!names.length) return el("p", { class: "empty" }, "This run has no metrics: metrics.jsonl is not there, or has no line yet.");
  const marks = evaluated(axis);
  const bar = el("div", { class: "bar" },
    select("Against", axes.map((name) => [name, name]), axis, (value) => go("curves", { x: value })),
    marks.length ? el("span", { class: "dim" }, "Broken lines: evaluations. ") : null,
    el("span", { class: "dim" }, "Drag over a curve to zoom; double-click to see all of it."));
  const still = [];
  const moving = [];
  for (const name of names) {
    const seen = new Set(runs().flatMap((run) => run.metrics[name] || []).filter((value) => value !== null));
    (seen.size > 1 || FIRST.slice(0, 6).includes(name) || runs()[0].axes.steps.length < 2 ? moving : still).push(name);
  }
  moving.sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
  const rest = new Set(moving);
  const sections = GROUPS.map(([title, takes]) => {
    const mine = [...rest].filter(takes);
    mine.forEach((name) => rest.delete(name));
    if (!mine.length) return null;
    const broken = (name) => runs().some((run) => (run.metrics[name] || []).some((value) => typeof value === "string"));
    return el("section", {}, el("h3", {}, title), el("div", { class: "charts" }, mine.map((name) =>
      chart(broken(name) ? `${name} (some values are NaN or infinite)` : name, metricSeries(name, axis), { marks, xLabel: axis, sync: "metrics" }))));
  });
  return el("div", {}, bar, sections, still.length ? el("section", {}, el("h3", {}, "The same at every step"),
    el("dl", { class: "facts" }, still.map((name) => {
      const values = runs().map((run) => (run.metrics[name] || []).find((value) => value !== null));
      return el("div", {}, el("dt", {}, foreign(name)), el("dd", {}, values.map((value) => fmt(value)).join(" / ")));
    }))) : null);
}
