// The page: its head, the view that the address names, and the keyboard.

const VIEWS = { curves, steps, episodes, group, episode, answers, settings };
const TABS = [["curves", "Curves"], ["steps", "Steps"], ["episodes", "Episodes"], ["answers", "Answers"], ["settings", "Settings"]];
const KEYS = [
  ["/", "search"], ["?", "these keys"], ["← →", "the episode or group before, the next one"], ["↑ ↓", "go through a list"], ["Enter", "open"],
  ["u", "up: from an episode to its group, to the list"], ["1 to 5", "the views from left to right"], ["t", "light or dark"], ["Esc", "leave a field, or close this"],
];

const main = el("main", { id: "main", tabindex: -1 });
const tabs = el("nav", { class: "tabs", "aria-label": "Views" });
const help = el("dialog", { "aria-label": "Keys" });
const theme = el("button", { class: "plainbutton", onclick: () => turn() });
let drawn = 0;

function themeNow() {
  return document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}
function named() {
  const other = themeNow() === "dark" ? "light" : "dark";
  theme.textContent = other === "dark" ? "☾ dark" : "☀ light";
  theme.setAttribute("aria-label", `Change to the ${other} theme`);
}
function turn() {
  document.documentElement.dataset.theme = themeNow() === "dark" ? "light" : "dark";
  try { localStorage.setItem("textenv-theme", document.documentElement.dataset.theme); } catch { /* storage is off for files in some browsers: the choice lasts until the page is closed */ }
  named();
  show();
}
function remembered() {
  try { return localStorage.getItem("textenv-theme"); } catch { return null; }
}

const viewOf = async (view, at) => (VIEWS[view] || curves)(at);
function unseen(error) {
  console.error(error);
  return el("p", { class: "empty", role: "alert" }, `This view cannot be shown: ${plainly(error.message)}.`);
}
async function show() {
  const { view, at } = place();
  const mine = ++drawn;
  const shown = await viewOf(view, at).catch(unseen);
  if (mine !== drawn) return; // another place was asked for meanwhile
  dropCharts();
  main.replaceChildren(...(view === "curves" || !(view in VIEWS) ? [el("div", { class: "runs" }, runs().map(headline))] : []), shown);
  const tab = { group: "episodes", episode: "episodes" }[view] || view;
  tabs.replaceChildren(...TABS.map(([name, text]) => el("a", { href: link(name), "aria-current": name === tab ? "page" : null }, text)));
  document.title = plainly(`${runs().map((run) => run.name).join(" and ")} · ${view}`);
  document.body.dataset.view = view;
}

function started() {
  const keys = el("button", { class: "plainbutton", onclick: () => help.showModal(), "aria-label": "Show the keys" }, "? keys");
  help.append(el("h2", {}, "Keys"), el("dl", { class: "keys" }, KEYS.map(([key, what]) => el("div", {}, el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)))),
    el("form", { method: "dialog" }, el("button", {}, "Close")));
  help.querySelector("form").addEventListener("submit", (event) => { event.preventDefault(); help.close(); });
  document.getElementById("page").append(
    el("a", { class: "skip", href: "#main", onclick: (event) => { event.preventDefault(); main.focus(); } }, "To the content"),
    el("header", { class: "top" }, el("h1", {}, runs().map((_, index) => [index ? el("span", { class: "dim" }, " beside ") : null, el("span", { title: plainly(runs()[index].path) }, foreign(runName(index)))])), tabs, el("div", { class: "tools" }, keys, theme)),
    main, el("footer", { class: "dim" }, `textenv ${DATA.version}`), help);
  if (remembered()) document.documentElement.dataset.theme = remembered();
  named();
}

// --- keys ----------------------------------------------------------------------------------------

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
  const typing = event.target.closest("input, select, textarea");
  if (typing) { if (event.key === "Escape") typing.blur(); return; }
  const view = main.lastElementChild?.dataset ?? {};
  const act = {
    "/": () => { const field = document.getElementById("search"); if (field) field.focus(); else { go("episodes"); wanted = true; } },
    "?": () => help.showModal(),
    t: turn,
    u: () => { if (view.up) location.hash = view.up; },
    ArrowLeft: () => { if (view.prev) location.hash = view.prev; else return false; },
    ArrowRight: () => { if (view.next) location.hash = view.next; else return false; },
    ArrowDown: () => walk(1),
    ArrowUp: () => walk(-1),
    ...Object.fromEntries(TABS.map(([name], index) => [String(index + 1), () => go(name)])),
  }[event.key];
  if (!act || act() === false) return;
  event.preventDefault();
}
let wanted = false; // whether the search is to be focused once the list is there

function walk(by) {
  const items = [...main.querySelectorAll("a.row")];
  if (!items.length) return false;
  const at = items.indexOf(document.activeElement);
  const next = items[at < 0 ? (by > 0 ? 0 : items.length - 1) : at + by];
  if (!next) return false;
  next.focus();
  next.scrollIntoView({ block: "nearest" });
}

// --- start ---------------------------------------------------------------------------------------

const loading = document.getElementById("loading");

async function start() {
  if (typeof DecompressionStream === "undefined") throw new Error("this browser cannot unpack its data; a newer one can (Chrome 111, Firefox 113, Safari 16.4)");
  DATA = await load("main");
  // Else a run without a metric called "constructor" has the function of that name.
  for (const run of runs()) for (const names of [run.config, run.metrics]) Object.setPrototypeOf(names, null);
  started();
  addEventListener("hashchange", async () => {
    const before = document.body.dataset.view;
    await show();
    if (place().view !== before) scrollTo(0, 0);
    if (wanted) { wanted = false; document.getElementById("search")?.focus(); }
  });
  addEventListener("keydown", onKey);
  addEventListener("resize", fitCharts);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { named(); show(); });
  main.append(loading); // until the first view takes its place
  await show();
  document.body.dataset.ready = "yes";
  if (DATA.refresh && runs().some((run) => ["running", undefined].includes(run.summary.state))) setTimeout(() => location.reload(), 1000 * DATA.refresh);
}
start().catch((error) => {
  console.error(error);
  loading.classList.remove("waiting");
  loading.textContent = `This page cannot be shown: ${plainly(error.message)}.`;
});
