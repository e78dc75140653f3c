// The last characters of a completion, on one line: there branches differ.
function ending(text) {
  const line = plainly(text.replace(/\s+/g, " ").trim());
  return line.length > 40 ? `…${line.slice(-40)}` : line;
}

// A group that is a tree: a line for each completion, which leaves its parent's at the branch point.

function treeOf(table, members, which) {
  const { rows } = table;
  if (!members.some((i) => rows.parent[i] !== null)) return null;
  const children = members.map(() => []);
  const roots = [];
  members.forEach((i, order) => {
    const parent = rows.parent[i];
    if (parent !== null && parent < members.length && parent !== order) children[parent].push(order);
    else roots.push(order);
  });
  // Branches that leave late lie next to their parent, so that no two lines cross.
  const lines = [];
  const stack = roots.reverse();
  const seen = new Set();
  while (stack.length) {
    const order = stack.pop();
    if (seen.has(order)) continue;
    seen.add(order);
    lines.push(order);
    stack.push(...children[order].sort((a, b) => rows.branch[members[a]] - rows.branch[members[b]]));
  }
  const longest = Math.max(1, ...members.map((i) => rows.length[i]));
  const wide = main.clientWidth >= 700;
  const said = (i) => `episode ${i + 1} · reward ${fmt(rows.reward[i], 3)}${wide && rows.text[i] ? ` · ${ending(rows.text[i])}` : ""}`;
  const right = 24 + 7 * Math.max(...members.map((i) => said(i).length));
  const [width, high, left] = [Math.min(1200, main.clientWidth || 600), 24, 8];
  const x = (token) => left + ((width - left - right) * token) / longest;
  const y = new Map(lines.map((order, line) => [order, 18 + line * high]));
  const drawing = lines.map((order) => {
    const i = members[order];
    const from = rows.parent[i] === null || !y.has(rows.parent[i]) ? null : rows.parent[i];
    const begin = x(from === null ? 0 : rows.branch[i] || 0);
    const row = y.get(order);
    const label = `Episode ${i + 1}: reward ${fmt(rows.reward[i], 3)}, ${count(rows.length[i], "token")}${from === null ? "" : `, branches from episode ${members[from] + 1} at token ${rows.branch[i]}`}`;
    return el("g", {},
      from === null ? null : el("path", { class: "branch", d: `M${begin} ${y.get(from)} V${row}` }),
      el("g", { class: rows.reward[i] > 0 ? "leaf good" : "leaf", role: "link", tabindex: 0, "aria-label": label, "data-href": link("episode", { run: which || "", step: table.index, i }) },
        el("title", {}, label), el("rect", { class: "hit", x: begin, y: row - high / 2, width: Math.max(1, width - begin), height: high }),
        el("path", { class: "branch", d: `M${begin} ${row} H${x(rows.length[i])}` }),
        from === null ? null : el("circle", { class: "fork", cx: begin, cy: y.get(from), r: 4 }),
        el("circle", { class: "end", cx: x(rows.length[i]), cy: row, r: 5 }),
        el("text", { x: x(rows.length[i]) + 10, y: row + 4 }, said(i))));
  });
  const height = 18 + lines.length * high;
  const picture = el("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "tree", "aria-label": `A tree of ${count(members.length, "completion")}` }, drawing);
  const open = (event) => { const leaf = event.target.closest("[data-href]"); if (leaf) location.hash = leaf.getAttribute("data-href"); };
  picture.addEventListener("click", open);
  picture.addEventListener("keydown", (event) => { if (event.key === "Enter") open(event); });
  return el("section", {}, el("h3", {}, "Tree"), el("p", { class: "dim" }, `Tokens from left to right, ${longest} at most; dots are branch points and ends.`), el("div", { class: "scroll" }, picture));
}
