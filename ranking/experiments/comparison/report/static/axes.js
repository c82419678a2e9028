// Shared by all plots: the selected data, arm colours and axes.
const choose = (id) => document.getElementById(id);
const state = { at: 0, hidden: new Set() };
const now = () => data[state.at];
const columns = data[0].columns;
const asRow = (values) => Object.fromEntries(columns.map((name, place) => [name, values[place]]));
const rowsOf = (filter) => now().rows.map(asRow).filter((row) => Object.entries(filter).every(([key, value]) => row[key] === value));
const painters = [];

// Draws now, and again when the selection changes.
function painted(paint) {
  painters.push(paint);
  paint();
}
const repaint = () => painters.forEach((paint) => paint());

function fill(select, values, selected) {
  const before = selected ?? select.value;
  select.replaceChildren(...values.map((value) => make("option", { value }, value)));
  select.value = values.includes(before) ? before : values[0] ?? "";
}

const ceilings = new Set(["oracle", "fair ceiling"]); // of a synthetic world, not of a model
const allArms = [...new Set(data.flatMap((each) => Object.keys(each.titles)))];
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function hue(arm) {
  if (ceilings.has(arm)) return "var(--soft)";
  const place = Math.max(allArms.indexOf(arm), 0);
  return `oklch(${(dark.matches ? 72 : 55) + [0, 8, -8][place % 3]}% 0.14 ${((25 + place * 137.508) % 360).toFixed(1)})`;
}

// A legend with one button per arm that adds it to or removes it from the set of hidden arms.
function legend(box, arms, hidden, again) {
  box.replaceChildren(
    ...arms.map((arm) =>
      make("button", {
        type: "button", "data-arm": arm, "aria-pressed": String(!hidden.has(arm)),
        onclick: () => { if (!hidden.delete(arm)) hidden.add(arm); again(); },
      }, make("span", { class: "swatch-line", style: { background: hue(arm) } }), arm, make("small", {}, now().titles[arm] ?? "")),
    ),
  );
}

// A vertical axis over named positions; returns the coordinate functions.
function grid(width, height, names, low, high, label) {
  const [left, base] = [56, height - 26];
  const step = (width - left) / Math.max(names.length, 1);
  const x = (place) => left + (place + 0.5) * step;
  const y = (value) => base - ((value - low) / (high - low || 1)) * (base - 12);
  const svg = draw("svg", { width, height, role: "img", "aria-label": label });
  for (const { at, text } of ticks(low, high, 5)) {
    svg.append(
      draw("line", { class: "grid", x1: left, x2: width, y1: y(at), y2: y(at) }),
      draw("text", { x: left - 8, y: y(at) + 4, "text-anchor": "end" }, text),
    );
  }
  names.forEach((name, place) => svg.append(draw("text", { x: x(place), y: height - 6, "text-anchor": "middle" }, name)));
  return { svg, x, y, step };
}

const pathOf = (points) => `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`;
