// Prompts and groups of the saved rollouts: filters, search, and a group side by side.

const FILTERS = [
  ["all", "all", () => true],
  ["solved", "solved", (rows, i) => (rows.correct[i] === null ? number(rows.reward[i]) > 0 : rows.correct[i])],
  ["unsolved", "unsolved", (rows, i) => (rows.correct[i] === null ? !(number(rows.reward[i]) > 0) : !rows.correct[i])],
  ["cut", "cut off", (rows, i) => rows.cut[i]],
  ["nosignal", "without signal", (rows, i) => !rows.signal[i]],
  ["terminated", "ended by itself", (rows, i) => rows.end[i] === "terminated"],
  ["truncated", "stopped by a limit", (rows, i) => rows.end[i] === "truncated"],
  ["open", "goes on in the next rollout", (rows, i) => rows.end[i] === "open"],
];
const OF_TEXT = ["all", "solved", "unsolved", "cut", "nosignal"];
const OF_CONTROL = ["all", "terminated", "truncated", "open"];
const SORTS = [["order", "as played"], ["low", "lowest reward"], ["high", "highest reward"], ["long", "longest"], ["short", "shortest"], ["spread", "most different rewards"]];
const PART = 60;

async function tables(which) {
  const run = runs()[which];
  return Promise.all(run.rollouts.map(async (rollout, index) => {
    const found = await load(`${rollout.name}-table`);
    if (!found.lower) {
      found.lower = found.rows.text.map((text) => text.toLowerCase());
      found.groups.forEach((group) => { group.lower = `${group.prompt}\n${group.expected ?? ""}`.toLowerCase(); });
      found.members = found.groups.map(() => []);
      found.rows.group.forEach((group, i) => found.members[group].push(i));
      found.rows.reward = found.rows.reward.map(number);
      found.index = index;
    }
    return found;
  }));
}

// The groups of some rollouts that have a matching episode, each with these episodes.
function matching(chosen, at) {
  const keep = (FILTERS.find(([name]) => name === at.get("show")) || FILTERS[0])[2];
  const search = (at.get("q") || "").toLowerCase();
  const [part, bound] = [at.get("part"), at.get("is")];
  const found = [];
  for (const table of chosen) {
    const { rows } = table;
    const column = part ? rows.components[part] : null;
    if (part && !column) continue;
    table.members.forEach((members, group) => {
      const named = search && table.groups[group].lower.includes(search);
      const hits = members.filter((i) => keep(rows, i) && (!search || named || table.lower[i].includes(search)) &&
        (!part || (column[i] !== null && (bound === "zero" ? !(number(column[i]) > 0) : number(column[i]) > 0))));
      if (hits.length) found.push({ table, group, members, hits });
    });
  }
  const mean = (one) => one.hits.reduce((sum, i) => sum + (one.table.rows.reward[i] || 0), 0) / one.hits.length;
  const longest = (one, pick) => pick(...one.hits.map((i) => one.table.rows.length[i]));
  const spread = (one) => { const all = one.members.map((i) => one.table.rows.reward[i]); return Math.max(...all) - Math.min(...all); };
  const keys = { low: mean, high: (one) => -mean(one), long: (one) => -longest(one, Math.max), short: (one) => longest(one, Math.min), spread: (one) => -spread(one) };
  const key = keys[at.get("sort")];
  if (!key) return found;
  return found.map((one) => [key(one), one]).sort((a, b) => compareValues(a[0], b[0])).map(([, one]) => one);
}

async function episodes(at) {
  const which = runOf(at);
  const run = runs()[which];
  if (!run.rollouts.length) return el("div", {}, chooser("episodes", which), el("p", { class: "empty" }, "This run has no saved rollouts. Trainings save some of them with --rollouts-every, and of control with --export json."));
  const all = await tables(which);
  const step = at.get("step");
  const chosen = step === null ? all : all.filter((table) => table.index === Number(step));
  const total = chosen.reduce((sum, table) => sum + table.rows.group.length, 0);
  const control = all.every((table) => table.control);
  const parts = [...new Set(chosen.flatMap((table) => Object.keys(table.rows.components)))];
  const list = el("div", { class: "list" });
  const said = el("p", { class: "dim", role: "status" });
  const move = (changes) => go("episodes", { ...Object.fromEntries(at), ...changes });
  const search = el("input", { type: "search", id: "search", hidden: control, placeholder: "Search in prompts and completions  ( / )", "aria-label": "Search in prompts and completions", value: at.get("q") });
  function show() {
    const found = matching(chosen, place().at);
    const hits = found.reduce((sum, one) => sum + one.hits.length, 0);
    const groups = all.some((table) => table.members.some((members) => members.length > 1)) ? `, in ${count(found.length, "group")}` : "";
    said.textContent = `${count(hits, "episode")} of ${total.toLocaleString("en")}${groups}`;
    list.replaceChildren();
    const more = inParts(found, PART, (one) => groupRow(which, one), list, groups ? "group" : "episode");
    list.after(more);
    while (more.nextElementSibling?.classList.contains("more")) more.nextElementSibling.remove();
  }
  search.addEventListener("input", () => { note({ q: search.value }); show(); });
  const bar = el("div", { class: "bar" },
    runs().length > 1 ? select("Run", runs().map((_, index) => [index, runName(index)]), which, (value) => go("episodes", { run: value })) : null,
    select("Step", [["", `all ${run.rollouts.length} saved`], ...run.rollouts.map((rollout, index) => [index, stepName(rollout)])], step ?? "", (value) => move({ step: value })),
    select("Sort", SORTS, at.get("sort") || "order", (value) => { note({ sort: value === "order" ? "" : value }); show(); }),
    parts.length ? select("Component", [["", "any"], ...parts.flatMap((part) => [[`${part}\n>`, `${part} > 0`], [`${part}\n0`, `${part} 0 or less`]])],
      at.get("part") ? `${at.get("part")}\n${at.get("is") === "zero" ? "0" : ">"}` : "",
      (value) => { const [part, bound] = value.split("\n"); note({ part: part || "", is: bound === "0" ? "zero" : "" }); show(); }) : null,
    search);
  const chips = el("div", { class: "chips", role: "group", "aria-label": "Show episodes" }, FILTERS.filter(([name]) => (control ? OF_CONTROL : OF_TEXT).includes(name)).map(([name, text]) => {
    const chip = el("button", { class: "chip", "aria-pressed": String((at.get("show") || "all") === name), onclick: () => {
      note({ show: name === "all" ? "" : name });
      for (const other of chips.children) other.setAttribute("aria-pressed", String(other === chip));
      show();
    } }, text);
    return chip;
  }));
  const box = el("div", {}, bar, chips, said, list);
  show();
  return box;
}

const verdict = (rows, i) => (rows.correct[i] === null ? null : rows.correct[i] ? "right" : "wrong");
function mark(rows, i) {
  const said = verdict(rows, i);
  if (said) return el("span", { class: `mark ${said}` }, said === "right" ? "✓ right" : "✗ wrong");
  return null;
}

function groupRow(which, { table, group, members, hits }) {
  const { rows, groups } = table;
  const rollout = runs()[which].rollouts[table.index];
  const alone = members.length === 1;
  const href = alone ? link("episode", { run: which || "", step: table.index, i: members[0] }) : link("group", { run: which || "", step: table.index, g: group });
  const rewards = members.map((i) => rows.reward[i]).filter((reward) => reward !== null && !Number.isNaN(reward));
  const mean = rewards.length ? rewards.reduce((a, b) => a + b, 0) / rewards.length : null;
  const title = groups[group].prompt || (table.control ? `episode ${group + 1}, ${count(rows.turns[members[0]], "step")}` : "(empty prompt)");
  const facts = [stepName(rollout), alone ? null : hits.length === members.length ? count(members.length, "episode") : `${hits.length} of ${count(members.length, "episode")}`, rows.signal[members[0]] ? null : "no signal", rows.frames?.[members[0]] ? "with frames" : null];
  return el("a", { class: "row group", href },
    el("span", { class: "prompt" }, foreign(title, 300)),
    el("span", { class: "sample" }, rows.text[hits[0]] ? foreign(rows.text[hits[0]], 300) : ""),
    el("span", { class: "dim" }, facts.filter(Boolean).join(" · ")),
    el("span", { class: "reward" }, mean === null ? "not scored" : `${alone ? "reward" : "mean"} ${fmt(mean, 3)}`),
    alone ? mark(rows, members[0]) : el("span", { class: "strip", role: "img", "aria-label": `Rewards ${rewards.map((reward) => fmt(reward, 3)).join(", ")}` },
      members.slice(0, 64).map((i) => el("span", { class: `cell ${hits.includes(i) ? "" : "faint"}`, tint: `${shareOf(rows.reward[i], rewards)}%`, title: fmt(rows.reward[i]) }))));
}
// How full a reward's cell is: from the lowest of 0 and the group's, to the highest of 1 and the group's.
function shareOf(reward, rewards) {
  const [low, high] = [Math.min(0, ...rewards), Math.max(1, ...rewards)];
  return Number.isFinite(reward) ? Math.round((100 * (reward - low)) / (high - low)) : 0;
}

// --- a group side by side -------------------------------------------------------------------------

async function group(at) {
  const which = runOf(at);
  const { table, rollout } = await rolloutOf(which, at);
  const number_ = Number(at.get("g"));
  const members = table.members[number_];
  if (!members) return lost();
  const { rows } = table;
  const shared = table.groups[number_];
  const next = (by) => {
    const to = number_ + by;
    return to < 0 || to >= table.groups.length ? null : link("group", { ...Object.fromEntries(at), g: to });
  };
  const cards = members.map((i) => el("a", { class: "row card", href: link("episode", { run: which || "", step: table.index, i }) },
    el("span", { class: "cardhead" }, el("strong", {}, `reward ${fmt(rows.reward[i], 3)}`), mark(rows, i), rows.cut[i] ? el("span", { class: "badge warn" }, "cut off") : null, el("span", { class: "dim number" }, `episode ${i + 1}`)),
    el("span", { class: "text" }, rows.text[i] ? foreign(rows.text[i], 600) : el("span", { class: "dim" }, table.control ? "" : "(empty)")),
    figures(table, i, shared)));
  return el("div", { "data-prev": next(-1), "data-next": next(1), "data-up": link("episodes", { run: which || "", step: at.get("step") }) },
    trail(which, table, rollout, null, null),
    el("h2", {}, `Group ${number_ + 1} of ${table.groups.length}, ${stepName(rollout)}`),
    pager(next(-1), next(1), "group"),
    promptOf(shared), treeOf(table, members, which), el("div", { class: "cards" }, cards));
}

function figures(table, i, shared) {
  const { rows } = table;
  const facts = [];
  if (rows.answer[i] !== null) facts.push(["extracted", foreign(rows.answer[i], 200)]);
  if (shared.expected !== null) facts.push(["expected", foreign(shared.expected, 200)]);
  if (rows.advantage[i] !== null) facts.push(["advantage", signed(number(rows.advantage[i]), 3)]);
  facts.push([table.control ? "steps" : "tokens", fmt(rows.length[i])]);
  const parts = Object.entries(rows.components);
  if (parts.length > 1) facts.push(...parts.map(([name, values]) => [name, fmt(values[i], 3)]));
  if (rows.turns[i] > 1 && !table.control) facts.push(["turns", fmt(rows.turns[i])]);
  return el("dl", { class: "facts tight" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, foreign(name)), el("dd", {}, value))));
}

function promptOf(shared) {
  if (shared.messages) return el("section", { class: "messages", "aria-label": "Prompt" }, shared.messages.map((one) => message(one)));
  return shared.prompt ? el("section", { class: "message" }, el("h3", {}, "Prompt"), long(shared.prompt)) : null;
}

async function rolloutOf(which, at) {
  const rollout = runs()[which].rollouts[Number(at.get("step"))];
  if (!rollout) return { table: { members: [] } };
  const table = (await tables(which))[Number(at.get("step"))];
  return { table, rollout };
}
const lost = () => el("p", { class: "empty" }, "This place is not in the page: the run may have gone on since the link was made.");

function trail(which, table, rollout, groupIndex, text) {
  const parts = [el("a", { href: link("episodes", { run: which || "" }) }, "episodes"), el("a", { href: link("episodes", { run: which || "", step: table.index }) }, stepName(rollout))];
  if (groupIndex !== null && table.members[groupIndex].length > 1) parts.push(el("a", { href: link("group", { run: which || "", step: table.index, g: groupIndex }) }, `group ${groupIndex + 1}`));
  if (text) parts.push(el("span", {}, text));
  return el("nav", { class: "trail", "aria-label": "Where this is" }, runs().length > 1 ? el("span", {}, foreign(runName(which)), " / ") : null,
    parts.flatMap((part, index) => (index ? [" / ", part] : [part])));
}
function pager(before, after, what) {
  return el("div", { class: "pager" }, before ? el("a", { href: before }, `← previous ${what}`) : el("span", { class: "dim" }, `← previous ${what}`),
    after ? el("a", { href: after }, `next ${what} →`) : el("span", { class: "dim" }, `next ${what} →`));
}
