// The code tree. Branches are created when they are opened, in batches.
const SOME_BRANCHES = 50;
const SOME_ITEMS = 100;
const SOME_RESULTS = 12;
const { levels: depths, items, categories } = data.tree;
const last = depths.length - 1;

// first[d][i]: index of the first child of branch i (at the last depth: of its first embedded item).
const first = depths.map(({ children }) => {
  const starts = new Int32Array(children.length + 1);
  children.forEach((number, branch) => { starts[branch + 1] = starts[branch] + number; });
  return starts;
});
// leaves[d][i]: index of the first leaf of branch i.
const leaves = [];
for (let depth = last; depth >= 0; depth -= 1) {
  leaves[depth] = Int32Array.from(first[depth], (child, branch) => (depth === last ? branch : leaves[depth + 1][child]));
}

const nameOf = (item) => items.title[item] ?? items.id[item];
let largestFirst = true;

function orderOf(depth, from, to) {
  const branches = Array.from({ length: to - from }, (_, place) => from + place);
  const { count } = depths[depth];
  return largestFirst ? branches.sort((one, other) => count[other] - count[one] || one - other) : branches;
}

// Titles of the items with the smallest residuals in the largest leaves of a branch.
function examples(depth, branch) {
  const { count } = depths[last];
  const best = [];
  for (let leaf = leaves[depth][branch]; leaf < leaves[depth][branch + 1]; leaf += 1) {
    if (first[last][leaf] === first[last][leaf + 1]) continue;
    best.push(leaf);
    best.sort((one, other) => count[other] - count[one] || one - other);
    if (best.length > 3) best.pop();
  }
  const shown = best.map((leaf) => nameOf(first[last][leaf]));
  if (best.length < 3) {
    for (const leaf of best) {
      const until = Math.min(first[last][leaf + 1], first[last][leaf] + 3);
      for (let item = first[last][leaf] + 1; item < until; item += 1) shown.push(nameOf(item));
    }
  }
  return [...new Set(shown)].slice(0, 3);
}

function itemRow(item) {
  const category = items.category[item];
  const extra = items.extra.length ? items.extra[item].join(", ") : "";
  return make("li", { "data-item": item },
    make("span", { class: items.title[item] === null ? "title untitled" : "title" }, bidi(nameOf(item))),
    category >= 0 ? make("span", { class: "chip" }, bidi(categories[category])) : null,
    items.title[item] === null ? null : make("code", {}, bidi(items.id[item])),
    extra ? make("span", { class: "detail" }, `further codes ${extra}`) : null);
}

// A list that grows in batches; `until` extends it up to a given member.
function growing(list, members, some, rowOf, what) {
  const rows = new Map();
  const button = make("button", { type: "button", class: "more-button" });
  const grow = (most) => {
    for (const member of members.slice(rows.size, rows.size + most)) {
      const row = rowOf(member);
      rows.set(member, row);
      list.append(row.node ?? row);
    }
    const missing = members.length - rows.size;
    button.hidden = missing === 0;
    button.textContent = `Show ${counted(Math.min(missing, some))} more of ${counted(missing)} ${what}`;
  };
  button.addEventListener("click", () => grow(some));
  grow(some);
  return {
    button,
    until(member) {
      while (!rows.has(member) && rows.size < members.length) grow(some);
      return rows.get(member);
    },
  };
}

function leafOf(branch, path) {
  const [from, to] = [first[last][branch], first[last][branch + 1]];
  const missing = depths[last].count[branch] - (to - from);
  const list = make("ul", { class: "items" });
  const members = Array.from({ length: to - from }, (_, place) => from + place);
  const grown = growing(list, members, SOME_ITEMS, itemRow, "items");
  const left = missing
    ? make("p", { class: "detail left-out" }, `${plural(missing, "more item", "more items")} with this code, not included in this page. ` +
        `sidkit codebooks items --codes ${path.join(",")} lists them.`)
    : null;
  return { node: make("div", { class: "inside" }, list, grown.button, left), until: grown.until };
}

function branchesOf(depth, from, to, path, siblings) {
  const list = make("ul");
  const order = orderOf(depth, from, to);
  const most = Math.max(...order.map((branch) => depths[depth].count[branch]), 1);
  const grown = growing(list, order, SOME_BRANCHES, (branch) => branchRow(depth, branch, path, siblings, most), "branches");
  return { node: make("div", { class: "inside" }, list, grown.button), until: grown.until };
}

function branchRow(depth, branch, above, siblings, most) {
  const { code, count, category, share } = depths[depth];
  const path = [...above, code[branch]];
  const paint = colour(path[0]);
  const shown = examples(depth, branch);
  const chip = category[branch] < 0 ? make("span") : make("span", { class: "chip" },
    bidi(categories[category[branch]]), ` ${percent(share[branch], count[branch])}`);
  const hint = make("span", { class: "examples" });
  shown.forEach((title, place) => hint.append(place ? " · " : "", bidi(title)));
  const button = make("button", { type: "button", class: "branch", "aria-expanded": "false", "data-path": path.join(",") },
    make("span", { class: "chevron", "aria-hidden": "true" }, "▸"),
    make("span", { class: "swatch", "aria-hidden": "true", style: { background: paint } }),
    make("span", { class: "code-name" }, `code ${code[branch]}`),
    make("span", { class: "bar", "aria-hidden": "true" },
      make("span", { style: { background: paint, width: `${Math.max((100 * count[branch]) / most, 1.5)}%` } })),
    make("span", { class: "counted" }, plural(count[branch], "item", "items"), " ", make("small", {}, percent(count[branch], siblings))),
    chip, hint);
  const node = make("li", {}, button);
  let inside = null;
  const row = {
    node,
    button,
    open(expanded = true) {
      button.setAttribute("aria-expanded", String(expanded));
      if (expanded && !inside) {
        inside = depth === last
          ? leafOf(branch, path)
          : branchesOf(depth + 1, first[depth][branch], first[depth][branch + 1], path, count[branch]);
        const detail = make("p", { class: "detail" }, `Codes ${path.join(", ")}: ${plural(count[branch], "item", "items")}` +
          (depth === last ? "." : ` in ${plural(first[depth][branch + 1] - first[depth][branch], "branch", "branches")}.`));
        if (depth === 0 && data.map.id.length) {
          detail.append(make("button", { type: "button", class: "show-button", onclick: () => showOnMap(code[branch]) }, "Show on the map"));
        }
        inside.node.prepend(detail);
        node.append(inside.node);
      }
      if (inside) inside.node.hidden = !expanded;
      return inside;
    },
  };
  button.addEventListener("click", () => row.open(button.getAttribute("aria-expanded") !== "true"));
  return row;
}

const treeBox = document.getElementById("tree");
let root = null;
function plant() {
  root = branchesOf(0, 0, depths[0].count.length, [], data.total);
  treeBox.replaceChildren(data.total ? root.node : make("p", {}, "No item has codes."));
}
plant();
document.getElementById("order").addEventListener("change", (event) => {
  largestFirst = event.target.value === "count";
  plant();
});

treeBox.addEventListener("keydown", (event) => {
  const branch = event.target.closest(".branch");
  if (!branch || event.altKey || event.ctrlKey || event.metaKey) return;
  const visible = [...treeBox.querySelectorAll(".branch")].filter((button) => button.offsetParent !== null);
  const place = visible.indexOf(branch);
  const isOpen = branch.getAttribute("aria-expanded") === "true";
  let next = null;
  if (event.key === "ArrowDown") next = visible[place + 1];
  else if (event.key === "ArrowUp") next = visible[place - 1];
  else if (event.key === "Home") [next] = visible;
  else if (event.key === "End") next = visible.at(-1);
  else if (event.key === "ArrowRight") {
    if (isOpen) next = branch.parentElement.querySelector(":scope > .inside .branch");
    else branch.click();
  } else if (event.key === "ArrowLeft") {
    if (isOpen) branch.click();
    else next = branch.closest("ul").closest("li")?.querySelector(".branch");
  } else return;
  event.preventDefault();
  next?.focus();
});

// The parent branch of a child: the last non-empty branch that starts at or before it.
function parentOf(starts, child) {
  let [low, high] = [0, starts.length - 2];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle] <= child) low = middle;
    else high = middle - 1;
  }
  return low;
}

function pathTo(item) {
  const path = [];
  for (let depth = last, child = item; depth >= 0; depth -= 1) {
    child = parentOf(first[depth], child);
    path.unshift(child);
  }
  return path;
}

function reveal(item) {
  let level = root;
  for (const branch of pathTo(item)) level = level.until(branch).open();
  const row = level.until(item);
  treeBox.querySelectorAll(".sought").forEach((old) => old.classList.remove("sought"));
  row.classList.add("sought");
  row.tabIndex = -1;
  row.focus({ preventScroll: true });
  row.scrollIntoView({ block: "center" });
}

const resultsBox = document.getElementById("search-results");
let lowered = null;
let waiting = 0;
function find(text) {
  const query = text.trim().toLowerCase();
  if (!query) return resultsBox.replaceChildren();
  lowered ??= items.id.map((id, item) => `${items.title[item] ?? ""}\n${id}`.toLowerCase());
  const hits = [];
  lowered.forEach((name, item) => { if (name.includes(query)) hits.push(item); });
  if (!hits.length) return resultsBox.replaceChildren(make("p", {}, "No item in this page matches."));
  const list = make("ul");
  for (const item of hits.slice(0, SOME_RESULTS)) {
    const codes = pathTo(item).map((branch, depth) => depths[depth].code[branch]).join(", ");
    list.append(make("li", {}, make("button", { type: "button", onclick: () => reveal(item) }, bidi(nameOf(item)), make("code", {}, codes))));
  }
  const more = hits.length - SOME_RESULTS;
  return resultsBox.replaceChildren(list, ...(more > 0 ? [make("p", {}, `and ${counted(more)} more; refine the search`)] : []));
}
document.getElementById("find").addEventListener("input", (event) => {
  clearTimeout(waiting);
  waiting = setTimeout(() => find(event.target.value), 120);
});
