// The head of the page, and the table of steps.

function headline(run, index) {
  const said = run.summary;
  const facts = [["model", said.model ?? run.config.model], ["task", said.task ?? run.config.env], ["steps", said.steps ?? run.axes.steps.at(-1)]];
  if (said.seconds !== undefined) facts.push(["time", duration(Number(said.seconds))]);
  if (said.seed !== undefined) facts.push(["seed", said.seed]);
  const best = said.best;
  if (best && typeof best === "object" && best.step !== undefined) facts.push(["best evaluation", `${best.metric} ${fmt(best.value)} at step ${fmt(best.step)}`]);
  const state = said.state ?? (run.rollouts.length && !run.axes.steps.length ? "rollouts only" : "not finished");
  const algo = String(said.algo ?? run.config.algo ?? "").toUpperCase();
  const title = runs().length > 1 ? runName(index) : [algo || "Run", facts[1][1] ? `on ${facts[1][1]}` : ""].join(" ");
  return el("section", { class: "run", "aria-label": `Run ${run.name}` },
    el("h2", {}, runs().length > 1 ? el("span", { class: "swatch", colour: `var(${COLOURS[index]})` }) : null, foreign(title), " ",
      el("span", { class: `badge ${state === "finished" ? "good" : "plain"}` }, foreign(String(state)))),
    el("dl", { class: "facts" }, algo && runs().length > 1 ? el("div", {}, el("dt", {}, "algorithm"), el("dd", {}, foreign(algo))) : null,
      facts.filter(([, value]) => value !== undefined && value !== null).map(([name, value]) =>
        el("div", {}, el("dt", {}, name), el("dd", {}, foreign(typeof value === "number" && name !== "seed" ? fmt(value) : String(value)))))),
    gains(run), said.loss ? el("p", { class: "dim" }, foreign(String(said.loss))) : null, health(run));
}

// Figures before and after the training, with their intervals.
function gains(run) {
  const { before, after } = run.summary;
  const rows = [];
  for (const kind of ["greedy", "sampled"]) {
    for (const figure of ["accuracy", "reward", "return", "length"]) {
      const [was, now] = [before?.[kind]?.[figure], after?.[kind]?.[figure]];
      if (typeof was !== "number" || (figure === "reward" && was === before[kind].accuracy)) continue;
      const range = (part) => {
        const interval = part?.[kind]?.[`${figure}_interval`];
        return Array.isArray(interval) ? el("span", { class: "dim" }, ` ${fmt(interval[0], 3)} to ${fmt(interval[1], 3)}`) : null;
      };
      rows.push(el("tr", {}, el("th", { scope: "row" }, `${kind} ${figure}`), el("td", {}, fmt(was), range(before)),
        el("td", {}, typeof now === "number" ? fmt(now) : "–", range(after)),
        el("td", {}, typeof now === "number" ? signed(now - was, 3) : "–")));
    }
  }
  if (!rows.length) return null;
  const { change } = run.summary;
  const tested = change && typeof change === "object" && Array.isArray(change.interval) ? el("p", { class: "dim" },
    foreign(`Greedy ${change.figure}: ${signed(Number(change.difference), 3)} (${signed(Number(change.interval[0]), 3)} to ${signed(Number(change.interval[1]), 3)}), p = ${fmt(change.p_value, 2)} by ${change.test} on ${count(Number(change.examples), "example")}.`)) : null;
  return [scroller(el("table", { class: "small" }, el("caption", { class: "hidden" }, "Evaluations before and after the training"),
    el("thead", {}, el("tr", {}, ["held out", "before", "after", "change"].map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, rows))), tested];
}

// Why it learns or does not: warnings with their remedies, and how much of the rollouts taught anything.
function health(run) {
  const items = run.warnings.map((one) => el("li", { class: "warning" }, el("strong", {}, "Warning"), foreign(` at step ${one.step}: ${one.what}. `),
    el("span", {}, foreign(`Try: ${one.remedy}.`))));
  const last = (name) => valuesOf(run, name).filter((value) => value !== null).slice(-10);
  const mean = (name) => { const some = last(name); return some.length ? some.reduce((a, b) => a + b, 0) / some.length : null; };
  const flat = mean("frac_reward_zero_std");
  const cut = mean("completions/clipped_ratio");
  if (flat !== null) items.push(el("li", {}, `${percent(flat)} of the groups of the last ${count(last("frac_reward_zero_std").length, "step")} had no signal: all their rewards are equal.`));
  if (cut) items.push(el("li", {}, `${percent(cut)} of their completions were cut off.`));
  items.push(...run.notes.map((text) => el("li", { class: "note" }, foreign(text))));
  return items.length ? el("ul", { class: "health" }, items) : null;
}

const scroller = (inner, label) => el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label ?? inner.querySelector("caption")?.textContent ?? "Table" }, inner);

// --- steps ---------------------------------------------------------------------------------------

const COLUMNS = [
  ["reward", "reward"], ["accuracy", "accuracy"], ["eval/accuracy", "held-out accuracy"], ["rollout/ep_rew_mean", "return"],
  ["rollout/ep_len_mean", "episode length"], ["frac_reward_zero_std", "no signal"], ["completions/mean_length", "length"],
  ["completions/clipped_ratio", "cut off"], ["entropy", "entropy"], ["train/entropy_loss", "entropy loss"], ["kl", "KL"], ["train/approx_kl", "KL"],
  ["train/explained_variance", "explained variance"], ["grad_norm", "gradient"], ["loss", "loss"], ["step_time", "seconds"],
];

function steps(at) {
  const which = runOf(at);
  const run = runs()[which];
  const columns = COLUMNS.filter(([name]) => (run.metrics[name] || []).some((value) => value !== null));
  const order = [...run.axes.steps.keys()];
  const sort = at.get("sort") || "step";
  const down = at.get("down") === "1";
  const key = (row) => (sort === "step" ? run.axes.steps[row] : number(run.metrics[sort]?.[row] ?? null));
  order.sort((a, b) => (compareValues(key(a), key(b)) || a - b) * (down ? -1 : 1));
  const saved = new Map(run.rollouts.map((rollout, place) => [rollout.step, place]));
  const head = (name, text) => {
    const mine = sort === name;
    return el("th", { scope: "col", "aria-sort": mine ? (down ? "descending" : "ascending") : "none" },
      el("button", { onclick: () => go("steps", { run: which || "", sort: name, down: mine && !down ? 1 : "" }) }, text, mine ? (down ? " ↓" : " ↑") : ""));
  };
  const body = el("tbody");
  const more = inParts(order, 200, (row) => el("tr", {}, el("th", { scope: "row" }, fmt(run.axes.steps[row])),
    columns.map(([name]) => el("td", {}, fmt(run.metrics[name][row]))),
    el("td", {}, saved.has(run.axes.steps[row]) ? el("a", { class: "row", href: link("episodes", { run: which || "", step: saved.get(run.axes.steps[row]) }) }, "episodes") : "")), body, "step");
  if (!order.length) return el("div", {}, chooser("steps", which), el("p", { class: "empty" }, "This run has no steps yet."));
  return el("div", {}, chooser("steps", which), scroller(el("table", { class: "numbers" }, el("caption", { class: "hidden" }, "Steps"),
    el("thead", {}, el("tr", {}, head("step", "step"), columns.map(([name, text]) => head(name, text)), el("th", { scope: "col" }, "saved"))), body)), more);
}

// Smaller first; what has no value, or is no number, comes last.
function compareValues(a, b) {
  const [lost, missing] = [a, b].map((value) => value === null || value === undefined || Number.isNaN(value));
  if (lost || missing) return lost - missing;
  return a < b ? -1 : a > b ? 1 : 0;
}
const runOf = (at) => Math.min(Number(at.get("run") || 0), runs().length - 1);
function chooser(view, which) {
  if (runs().length < 2) return null;
  return el("div", { class: "bar" }, select("Run", runs().map((_, index) => [index, runName(index)]), which, (value) => go(view, { run: value })));
}
