// What all views share: elements, numbers, text of others, the compressed data, the place.

const SVG = "http://www.w3.org/2000/svg";

// An element with properties and children. Text becomes text nodes, never markup.
function el(name, given = {}, ...children) {
  const svg = ["svg", "path", "circle", "line", "text", "title", "g", "rect"].includes(name);
  const made = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in STYLED) made.style.setProperty(STYLED[key], value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}
const STYLED = { tint: "--tint", colour: "--colour" };

// Text of a model or a file: control characters and marks that turn the direction become escapes.
// A half of a surrogate pair counts among them; by the flag "u" a whole pair is one other character.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]/gu;
function escaped(char) {
  const code = char.charCodeAt(0);
  return code < 256 ? "\\x" + code.toString(16).padStart(2, "0") : "\\u" + code.toString(16).padStart(4, "0");
}
function foreign(text, most = Infinity) {
  const shown = text.length > most ? text.slice(0, most) : text;
  const parts = [];
  let from = 0;
  for (const found of shown.matchAll(HIDDEN)) {
    parts.push(shown.slice(from, found.index), el("span", { class: "escape" }, escaped(found[0])));
    from = found.index + found[0].length;
  }
  parts.push(shown.slice(from));
  if (text.length > most) parts.push(el("span", { class: "dim" }, ` … ${count(text.length - most, "more character")}`));
  return el("bdi", {}, parts);
}
const plainly = (text) => text.replace(HIDDEN, escaped);

// A long text, with a button for the rest of it.
function long(text, most = 4000) {
  const box = el("div", { class: "text" }, foreign(text, most));
  if (text.length > most) {
    const more = el("button", { onclick: () => box.replaceChildren(foreign(text)) }, `Show all ${text.length.toLocaleString("en")} characters`);
    box.append(el("div", {}, more));
  }
  return box;
}

// Numbers that are no numbers in JSON come as text: "NaN", "Infinity".
const number = (value) => (value === null || value === undefined ? null : Number(value));
function fmt(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  value = Number(value);
  if (!Number.isFinite(value)) return String(value).replace("Infinity", "∞");
  if (Number.isInteger(value)) return Math.abs(value) < 1e15 ? value.toLocaleString("en") : value.toExponential(3);
  const size = Math.abs(value);
  return size >= 1e6 || size < 1e-4 ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
}
const signed = (value, digits) => (value > 0 ? "+" : "") + fmt(value, digits);
const count = (many, thing) => `${many.toLocaleString("en")} ${thing}${many === 1 ? "" : "s"}`;
const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)}%`;
function duration(seconds) {
  if (seconds < 100) return `${fmt(seconds, 3)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 100 ? `${minutes} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// --- data ---------------------------------------------------------------------------------------

async function unpacked(name) {
  const block = document.getElementById(`block-${name}`);
  const bytes = Uint8Array.from(atob(block.textContent), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}
const unpack = (name) => unpacked(name).catch((error) => {
  throw new Error("its data cannot be unpacked, since the file was cut off or changed; textenv view makes it again", { cause: error });
});
const kept = new Map(); // name -> promise; the newest of the large ones only
function load(name) {
  if (!kept.has(name)) kept.set(name, unpack(name));
  const large = [...kept.keys()].filter((key) => key.endsWith("-details"));
  for (const key of large.slice(0, -4)) if (key !== name) kept.delete(key);
  return kept.get(name);
}
const detailsOf = async (rollout, index) => {
  const found = await load(`${rollout.name}-details`);
  return { ...found.episodes[index], spelling: found.texts };
};

let DATA = null;
const runs = () => DATA.runs;
const NAMES = ["A", "B"];
const runName = (index) => (runs().length > 1 ? `${NAMES[index]}: ${runs()[index].name}` : runs()[index].name);
const stepName = (rollout) => (rollout.step === null ? rollout.file : `step ${fmt(rollout.step)}`);

// --- the place: all of it is in the address, so that a link opens where it was copied -------------

function parsed(hash) {
  const [view, query] = hash.replace(/^#\/?/, "").split("?");
  return { view: view || "curves", at: new URLSearchParams(query || "") };
}
const place = () => parsed(location.hash);
// The colour of tokens is chosen for all episodes: links between these views take it along.
const COLOURED = ["episodes", "group", "episode"];
const link = (view, at = {}) => {
  const along = COLOURED.includes(view) ? { color: place().at.get("color") } : {};
  const given = Object.entries({ ...along, ...at }).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(given).toString();
  return `#/${view}${query ? `?${query}` : ""}`;
};
const go = (view, at) => { location.hash = link(view, at); };
// Changes the place without a new entry in the history, and without a new view.
function note(changes) {
  const { view, at } = place();
  history.replaceState(null, "", link(view, { ...Object.fromEntries(at), ...changes }));
  if ("color" in changes) relink();
}
// Gives the links that stand on the page the colour that was chosen since they were made.
function relink() {
  for (const name of ["href", "data-href", "data-prev", "data-next", "data-up"]) {
    for (const one of document.querySelectorAll(`[${name}^="#/"]`)) {
      const { view, at } = parsed(one.getAttribute(name));
      at.delete("color");
      one.setAttribute(name, link(view, Object.fromEntries(at)));
    }
  }
}

function select(label, options, chosen, onchange) {
  const list = el("select", { onchange: (event) => onchange(event.target.value) },
    options.map(([value, text]) => el("option", { value, selected: String(value) === String(chosen) }, plainly(text))));
  return el("label", { class: "field" }, el("span", {}, label), list);
}

// The first rows of a long list, and a button for more of them.
function inParts(items, most, make, box, what) {
  let shown = 0;
  const more = el("button", { class: "more", onclick: () => add() }, "");
  function add() {
    box.append(...items.slice(shown, shown + most).map(make));
    shown = Math.min(items.length, shown + most);
    more.textContent = `Show more: ${count(items.length - shown, what)} left`;
    more.hidden = shown >= items.length;
  }
  add();
  return more;
}
