// One episode: its conversation, and its tokens coloured by what the policy thought of them.

const TOKENS_AT_ONCE = 4000;
// What tokens can be coloured by: how much of the colour a value takes, from -1 to 1, and its ends.
const MEASURES = {
  logprobs: { label: "log-probability", share: (v) => Math.min(1, -v / 4), ends: ["0: certain", "−4 or less: unlikely"] },
  entropies: { label: "entropy", share: (v) => Math.min(1, v / 2), ends: ["0: certain", "2 nats or more: open"] },
  advantages: { label: "advantage", share: (v, top) => v / top, two: true },
  ratios: { label: "ratio", share: (v) => Math.max(-1, Math.min(1, Math.log(v) / 0.4)), two: true, ends: ["0.67 or less", "1.5 or more"] },
  weights: { label: "weight", share: (v, top) => v / top, ends: ["0: left out", "in the loss"] },
};

async function episode(at) {
  const which = runOf(at);
  const { table, rollout } = await rolloutOf(which, at);
  const i = Number(at.get("i"));
  if (!rollout || !(i in table.rows.reward)) return lost();
  const { rows } = table;
  const all = await detailsOf(rollout, i);
  const groupIndex = rows.group[i];
  const members = table.members[groupIndex];
  const beside = (to) => (to in rows.reward ? link("episode", { ...Object.fromEntries(at), i: to, token: "" }) : null);
  const shared = table.groups[groupIndex];
  const up = members.length > 1 ? link("group", { run: which || "", step: table.index, g: groupIndex }) : link("episodes", { run: which || "", step: table.index });
  const facts = [["reward", fmt(rows.reward[i])], ["ended", rows.end[i]], [table.control ? "steps" : "tokens", fmt(rows.length[i])]];
  for (const [name, values] of Object.entries(rows.components)) if (values[i] !== null) facts.push([name, fmt(values[i])]);
  if (rows.answer[i] !== null) facts.push(["extracted", foreign(rows.answer[i], 300)]);
  if (shared.expected !== null) facts.push(["expected", foreign(shared.expected, 300)]);
  if (rows.advantage[i] !== null) facts.push(["advantage", signed(number(rows.advantage[i]))]);
  for (const [name, key] of [["temperature", "temperature"], ["seed", "seed"], ["policy version", "version"], ["environment", "env"], ["begins at step", "first"]])
    if (all[key] !== undefined && !(key === "first" && !all[key])) facts.push([name, String(all[key])]);
  if (shared.example !== null) facts.push(["example", foreign(shared.example, 60)]);
  if (rows.parent[i] !== null) {
    const from = members[rows.parent[i]]; // a parent is counted within its group
    facts.push(["branches from", [from === undefined ? "an episode that is not here" : el("a", { href: link("episode", { run: which || "", step: table.index, i: from }) }, `episode ${from + 1}`), ` at token ${rows.branch[i]}`]]);
  }
  return el("div", { "data-prev": beside(i - 1), "data-next": beside(i + 1), "data-up": up },
    trail(which, table, rollout, groupIndex, `episode ${i + 1}`),
    el("h2", {}, `Episode ${i + 1} of ${rows.reward.length}`, " ", mark(rows, i), rows.cut[i] ? el("span", { class: "badge warn" }, "cut off") : null),
    pager(beside(i - 1), beside(i + 1), "episode"),
    el("dl", { class: "facts" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, foreign(name)), el("dd", {}, value)))),
    table.control ? controlOf(all) : [tokensOf(all, rows, i, at), conversationOf(all, shared)]);
}

// --- tokens --------------------------------------------------------------------------------------

function tokensOf(all, rows, i, at) {
  const tokens = all.tokens;
  if (!tokens) return null;
  if (!tokens.advantages && rows.advantage[i] !== null) tokens.advantages = tokens.ids.map((_, k) => (tokens.mask?.[k] === 0 ? 0 : rows.advantage[i]));
  const known = Object.keys(MEASURES).filter((name) => tokens[name]);
  if (!known.length && !tokens.texts) return null;
  const texts = tokens.texts ? tokens.texts.map((index) => all.spelling[index]) : tokens.ids.map((id) => `#${id}`);
  const spans = el("div", { class: tokens.texts ? "tokens" : "tokens ids", tabindex: 0, role: "group", "aria-label": `${count(texts.length, "token")}. Arrow keys go from one to the next.` });
  const said = el("p", { class: "token-said", role: "status" }, "Point at a token, or go to the tokens by Tab and use the arrow keys. A click puts the token into the address.");
  const legend = el("span", { class: "legend" });
  let shown = 0;
  let active = -1;
  const chosen = () => {
    const name = place().at.get("color");
    return name === "none" || known.includes(name) ? name : known[0];
  };
  function paint(from) {
    const name = chosen();
    const measure = MEASURES[name];
    const values = measure ? tokens[name].map(number) : [];
    const top = values.reduce((best, v) => (Number.isFinite(v) ? Math.max(best, Math.abs(v)) : best), 1e-9);
    for (let k = from; k < shown; k++) {
      const span = spans.children[k];
      const own = tokens.mask?.[k] !== 0;
      // What is not finite has a mark, and no place on the scale.
      const odd = measure && own && values[k] !== null && !Number.isFinite(values[k]);
      const share = measure && own && !odd ? measure.share(values[k], top) : 0;
      span.className = !own ? "token theirs" : odd ? "token odd" : share < 0 ? "token low" : measure?.two ? "token high" : "token hot";
      span.style.setProperty("--tint", `${Math.round(100 * Math.abs(share || 0))}%`);
    }
    const ends = measure ? measure.ends ?? (measure.two ? [`−${fmt(top, 3)}`, `+${fmt(top, 3)}`] : ["0", fmt(top, 3)]) : [];
    const odd = values.some((v, k) => v !== null && !Number.isFinite(v) && tokens.mask?.[k] !== 0) ? [el("span", { class: "odd" }, "NaN or ∞")] : [];
    legend.replaceChildren(...(measure ? [ends[0], el("span", { class: measure.two ? "ramp two" : "ramp" }), ends[1], ...odd] : []));
  }
  function tell(k) {
    if (k < 0 || k >= shown) return;
    spans.children[active]?.classList.remove("active");
    active = k;
    const span = spans.children[k];
    span.classList.add("active");
    const parts = Object.entries(MEASURES).filter(([name]) => tokens[name]).map(([name, { label }]) => `${label} ${name === "advantages" ? signed(number(tokens[name][k]), 6) : fmt(tokens[name][k], 6)}`);
    const odds = tokens.logprobs ? [`probability ${fmt(Math.exp(number(tokens.logprobs[k])), 4)}`] : [];
    const own = tokens.mask?.[k] !== 0;
    said.replaceChildren(el("strong", {}, `Token ${k + 1} of ${texts.length}`), " ", el("code", {}, foreign(texts[k] === "" ? "(part of a character)" : JSON.stringify(texts[k]))), ` id ${tokens.ids[k]}`,
      own ? [...odds, ...parts].map((part) => ` · ${part}`).join("") : " · not the policy's: it came from the environment");
  }
  // Tells a token and puts it into the address, so that a link leads to it.
  function choose(k) {
    tell(k);
    note({ token: k + 1 });
  }
  const more = el("button", { class: "more", onclick: () => add() });
  function add() {
    const from = shown;
    shown = Math.min(texts.length, shown + TOKENS_AT_ONCE);
    for (let k = from; k < shown; k++) spans.append(el("span", {}, token(texts[k])));
    more.hidden = shown >= texts.length;
    more.textContent = `Show more: ${count(texts.length - shown, "token")} left`;
    paint(from);
  }
  spans.addEventListener("pointerover", (event) => { const span = event.target.closest(".token"); if (span) tell([...spans.children].indexOf(span)); });
  spans.addEventListener("click", (event) => { const span = event.target.closest(".token"); if (span) choose([...spans.children].indexOf(span)); });
  spans.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 20, ArrowUp: -20, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    choose(Math.max(0, Math.min(shown - 1, active + by)));
    spans.children[active].scrollIntoView({ block: "nearest" });
  });
  add();
  const linked = Number(at.get("token")) - 1;
  if (linked in texts) {
    while (shown <= linked) add();
    tell(linked);
  }
  const bar = el("div", { class: "bar" }, select("Colour by", [...known.map((name) => [name, MEASURES[name].label]), ["none", "nothing"]], chosen(), (value) => { note({ color: value === known[0] ? "" : value }); paint(0); }), legend);
  return el("section", { class: "tokenview" }, el("h3", {}, "Tokens"), bar, spans, said, more);
}
// Line breaks are shown, and break the line too.
function token(text) {
  if (!text.includes("\n")) return foreign(text);
  return text.split(/(\n)/).filter(Boolean).map((part) => (part === "\n" ? [el("span", { class: "dim" }, "↵"), "\n"] : foreign(part)));
}

// --- conversation --------------------------------------------------------------------------------

function message({ role, content, name, calls }, extra = []) {
  return el("article", { class: `message ${["system", "user", "assistant", "tool"].includes(role) ? role : ""}` },
    el("h4", {}, foreign(role), name ? [" ", foreign(name)] : null, extra), content ? long(content) : null,
    calls ? el("div", { class: "calls" }, el("span", { class: "dim" }, "calls"), long(calls)) : null);
}

function conversationOf(all, shared) {
  const turns = all.turns || [];
  const reward = (turn) => el("span", { class: "turnreward" }, `reward ${fmt(all.rewards[turn])}`);
  const parts = [];
  if (all.messages) {
    // The first of the assistant's messages may be of the prompt: examples of how to answer.
    let turn = -Math.max(0, all.messages.filter((one) => one.role === "assistant").length - turns.length);
    for (const one of all.messages) {
      const mine = one.role === "assistant" && turn++ >= 0;
      parts.push(message(one, mine && turn <= turns.length ? [" ", reward(turn - 1)] : []));
    }
  } else {
    if (all.prompt) parts.push(message({ role: "prompt", content: all.prompt }));
    turns.forEach((turn, index) => {
      parts.push(message({ role: turns.length > 1 ? `turn ${index + 1}` : "completion", content: turn.text || "(empty)" }, turns.length > 1 ? [" ", reward(index)] : []));
      if (turn.reply) parts.push(message({ role: "environment", content: turn.reply.replace(/^\n+/, "") }));
    });
  }
  const infos = turns.map((turn, index) => (turn.info ? el("details", {}, el("summary", {}, turns.length > 1 ? `What the environment said of turn ${index + 1}` : "What the environment said"), long(turn.info)) : null));
  return el("section", { class: "messages" }, el("h3", {}, all.messages ? "Conversation" : "Text"), parts, infos);
}
