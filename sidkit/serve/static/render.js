// Elements of the page. Everything that comes from data becomes a text node, never markup.

const DRIVERS = 4;

/** An element with properties and children; texts become text nodes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A picture of the item, or a mark whose colour is that of its first code. */
function mark(item, look) {
  const shown = item.picture && (item.picture.startsWith("data:") || look.pictures);
  if (shown) {
    const image = make("img", { class: "mark", alt: "", loading: "lazy", referrerpolicy: "no-referrer" });
    image.addEventListener("error", () => image.replaceWith(tile(item, look)));
    image.src = item.picture;
    return image;
  }
  return tile(item, look);
}

function tile(item, look) {
  const name = (item.title || item.item_id).trim();
  const letter = [...name.replace(/^[^\p{L}\p{N}]+/u, "")][0] || "?";
  const element = make("span", { class: item.codes ? "mark tile" : "mark tile bare", "aria-hidden": "true" }, letter.toUpperCase());
  if (item.codes) element.style.setProperty("--hue", String(Math.round((360 * item.codes[0]) / look.sizes[0])));
  return element;
}

/** The path of codes, coarse to fine; each code asks for the items that share the path up to it. */
function path(item, look) {
  if (!item.codes) return make("span", { class: "codes none" }, "no codes");
  const parts = item.codes.map((code, level) => {
    const prefix = item.codes.slice(0, level + 1);
    const label = `Rank items whose codes start with ${prefix.join(", ")}`;
    return make("button", { type: "button", class: "code", title: label, "aria-label": label, onclick: () => look.prefix(prefix) }, String(code));
  });
  return make("span", { class: "codes" }, ...parts);
}

const FLAGS = {
  cold: ["cold", "It had few interactions before."],
  unknown: ["unknown", "The online store has no row for it, so its score is uninformative."],
  stale: ["stale codes", "Its content is newer than its codes."],
};

function flags(item) {
  const present = Object.keys(FLAGS).filter((name) => item[name]);
  return present.map((name) => make("span", { class: `flag ${name}`, title: FLAGS[name][1] }, FLAGS[name][0]));
}

function named(item) {
  const title = make("span", { class: "title" }, item.title || item.item_id);
  const facts = [item.title ? item.item_id : null, item.category].filter((text) => text !== null && text !== undefined);
  return make("div", { class: "name" }, title, facts.length ? make("span", { class: "facts" }, facts.join(" · ")) : null);
}

/** Time before the request, in the largest unit that fits. */
export function ago(then, at) {
  const seconds = Math.max(0, (at - then) / 1000);
  const units = [["year", 31557600], ["month", 2629800], ["day", 86400], ["hour", 3600], ["minute", 60]];
  const [unit, size] = units.find(([, each]) => seconds >= each) || ["second", 1];
  const count = Math.floor(seconds / size);
  return `${count} ${unit}${count === 1 ? "" : "s"} before`;
}

export function historyItem(entry, at, look) {
  const then = new Date(entry.at);
  return make("li", { class: "event", "data-code": entry.item.codes ? String(entry.item.codes[0]) : "" },
    mark(entry.item, look),
    named(entry.item),
    make("time", { datetime: entry.at, title: then.toISOString().slice(0, 19).replace("T", " ") + " UTC" }, ago(then, at)),
    path(entry.item, look),
  );
}

/** The name of a group of features in plain words; names of own views stay as they are. */
function plain(group) {
  const [of, whose, depth] = group.match(/^(user_)?code_stats(?:_d(\d+))?$/) || [];
  if (of) {
    const place = depth === undefined ? "codes" : depth === "1" ? "first code" : `first ${depth} codes`;
    return whose ? `user's clicks, ${place}` : `clicks on its ${place}`;
  }
  const words = { item_attributes: "attributes as numbers", user_attributes: "attributes of the user" };
  return words[group] || group.replaceAll("_", " ");
}

/** What moved the score: the largest groups as bars around a common zero. */
function drivers(item, most) {
  const groups = Object.entries(item.explanation || {}).sort((one, other) => Math.abs(other[1]) - Math.abs(one[1]));
  const rows = groups.slice(0, DRIVERS).map(([group, change]) => {
    const bar = make("span", { class: change < 0 ? "bar less" : "bar more" });
    bar.style.width = `${(50 * Math.abs(change)) / most}%`;
    const value = `${change < 0 ? "−" : "+"}${Math.abs(change).toFixed(2)}`;
    return make("div", { class: "driver" },
      make("dt", { title: group }, plain(group)),
      make("dd", {}, make("span", { class: "track", "aria-hidden": "true" }, bar), make("span", { class: "value" }, value)));
  });
  return make("dl", { class: "drivers", "aria-label": "What moved the score" }, ...rows);
}

export function largestChange(items) {
  const sizes = items.flatMap((item) => Object.values(item.explanation || {}).map(Math.abs));
  return Math.max(...sizes, 1e-6);
}

export function rankedItem(item, place, most, look) {
  const score = look.calibrated ? `${(100 * item.score).toFixed(item.score < 0.1 ? 2 : 1)} %` : item.score.toFixed(4);
  const similar = make("button", { type: "button", class: "code like", onclick: () => look.similar(item.item_id),
    title: "Rank items similar to this one", "aria-label": `Rank items similar to ${item.title || item.item_id}` }, "similar");
  const element = make("li", { class: "item", "data-id": item.item_id },
    make("span", { class: "place", "aria-hidden": "true" }, String(place)),
    mark(item, look),
    make("div", { class: "what" }, named(item), make("div", { class: "below" }, path(item, look), similar, ...flags(item))),
    make("span", { class: "score", title: look.scoreMeaning }, score),
    drivers(item, most),
  );
  const kin = (on) => look.kin(item.codes ? item.codes[0] : null, on);
  element.addEventListener("pointerenter", () => kin(true));
  element.addEventListener("pointerleave", () => kin(false));
  element.addEventListener("focusin", () => kin(true));
  element.addEventListener("focusout", () => kin(false));
  return element;
}
