// Settings, as a difference if there are two runs, and the answers to the same examples.

function settings(at) {
  const names = [...new Set(runs().flatMap((run) => Object.keys(run.config)))].sort();
  if (!names.length) return el("p", { class: "empty" }, "There are no settings: config.toml is not there, or is broken.");
  const two = runs().length > 1;
  const value = (run, name) => (name in run.config ? String(run.config[name]) : "–");
  const differ = (name) => two && value(runs()[0], name) !== value(runs()[1], name);
  const all = !two || at.get("all") === "1";
  const shown = names.filter((name) => all || differ(name));
  const bar = two ? el("div", { class: "bar" }, el("button", { class: "chip", "aria-pressed": String(!all), onclick: () => go("settings", { all: all ? "" : 1 }) }, "only what differs"),
    el("span", { class: "dim" }, `${names.filter(differ).length} of ${names.length} differ`)) : null;
  return el("div", {}, bar, shown.length ? scroller(el("table", { class: "answers" }, el("caption", { class: "hidden" }, "Settings"),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "setting"), runs().map((_, index) => el("th", { scope: "col" }, two ? foreign(runName(index)) : "value")))),
    el("tbody", {}, shown.map((name) => el("tr", { class: differ(name) ? "differs" : "" }, el("th", { scope: "row" }, foreign(name)), runs().map((run) => el("td", { class: "words" }, foreign(value(run, name), 300)))))))) :
    el("p", { class: "empty" }, "All settings are the same."));
}

const CHANGES = [["all", "all", () => true], ["changed", "changed", (marks) => new Set(marks).size > 1],
  ["better", "now right", (marks) => marks[0] === false && marks.at(-1) === true], ["worse", "now wrong", (marks) => marks[0] === true && marks.at(-1) === false],
  ["wrong", "wrong at the end", (marks) => marks.at(-1) === false]];

async function answers(at) {
  const columns = [];
  for (const [index, run] of runs().entries()) {
    if (!run.answers) continue;
    const found = await load(`r${index}-answers`);
    for (const when of ["before", "after"]) {
      if (found[when]) columns.push({ label: runs().length > 1 ? `${NAMES[index]}, ${when}` : `${when} the training`, records: new Map(found[when].map((record) => [`${record.example_id}\n${record.prompt}`, record])) });
    }
  }
  if (!columns.length) return el("p", { class: "empty" }, "No answers of an evaluation are in the run's folder.");
  const keys = [...new Set(columns.flatMap((column) => [...column.records.keys()]))];
  const right = (record) => record?.correct?.[0] ?? (typeof record?.rewards?.[0] === "number" ? record.rewards[0] > 0 : null);
  const first = (key) => columns.map((column) => column.records.get(key)).find(Boolean);
  const body = el("tbody");
  const said = el("p", { class: "dim", role: "status" });
  const frame = scroller(el("table", { class: "answers" }, el("caption", { class: "hidden" }, "Answers to the same examples"),
    el("thead", {}, el("tr", {}, ["prompt", "expected", ...columns.map((column) => column.label)].map((name) => el("th", { scope: "col" }, name)))), body));
  function show() {
    const now = place().at;
    const search = (now.get("q") || "").toLowerCase();
    const keep = (CHANGES.find(([name]) => name === now.get("show")) || CHANGES[0])[2];
    const found = keys.filter((key) => {
      const records = columns.map((column) => column.records.get(key));
      if (!keep(records.map(right))) return false;
      return !search || records.some((record) => record && `${record.prompt}\n${[].concat(record.completions ?? []).join("\n")}`.toLowerCase().includes(search));
    });
    said.textContent = `${count(found.length, "example")} of ${keys.length.toLocaleString("en")}`;
    body.replaceChildren();
    frame.parentElement?.querySelector(":scope > .more")?.remove();
    const more = inParts(found, 100, (key) => {
      const one = first(key);
      return el("tr", {}, el("th", { scope: "row", class: "words" }, foreign(String(one.prompt ?? ""), 400)), el("td", { class: "words" }, one.expected === null || one.expected === undefined ? "–" : foreign(typeof one.expected === "string" ? one.expected : JSON.stringify(one.expected), 200)),
        columns.map((column) => {
          const record = column.records.get(key);
          if (!record) return el("td", {}, "–");
          const good = right(record);
          return el("td", { class: "words" }, good === null ? null : el("span", { class: `mark ${good ? "right" : "wrong"}` }, good ? "✓ right" : "✗ wrong"), " ", foreign(String(record.completions?.[0] ?? ""), 600));
        }));
    }, body, "example");
    frame.after(more);
  }
  const search = el("input", { type: "search", id: "search", placeholder: "Search in prompts and answers  ( / )", "aria-label": "Search in prompts and answers", value: at.get("q"), oninput: (event) => { note({ q: event.target.value }); show(); } });
  const chips = el("div", { class: "chips", role: "group", "aria-label": "Show examples" }, CHANGES.map(([name, text]) => el("button", { class: "chip", "aria-pressed": String((at.get("show") || "all") === name), onclick: (event) => {
    note({ show: name === "all" ? "" : name });
    for (const other of chips.children) other.setAttribute("aria-pressed", String(other === event.target));
    show();
  } }, text)));
  const box = el("div", {}, el("div", { class: "bar" }, search), chips, said, frame);
  show();
  return box;
}
