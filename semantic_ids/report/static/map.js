// The item map, on a canvas that is redrawn when the size, the theme or the highlight changes.
const dots = data.map;
const mapBox = document.getElementById("map");
const highlight = document.getElementById("highlight");
const detail = document.getElementById("map-detail");
const HOVER_RADIUS = 14;
const SOME_CODES = 12;
let places = [];
let repaint = () => {};

function nameOfDot(dot) {
  return dots.title[dot] ?? dots.id[dot];
}

function detailsOf(dot) {
  const title = dots.title[dot] === null ? "" : `, ${dots.id[dot]}`;
  const category = dots.category[dot] === null ? "" : `, ${dots.category[dot]}`;
  return `codes ${dots.codes[dot].join(", ")}${category}${title}`;
}

function showOnMap(code) {
  highlight.value = String(code);
  repaint();
  document.getElementById("map-section").scrollIntoView();
  highlight.focus({ preventScroll: true });
}

function drawMap() {
  const canvas = make("canvas", { tabindex: "0", role: "img", "aria-describedby": "map-detail",
    "aria-label": `A map of ${plural(dots.id.length, "item", "items")}; the left and right arrow keys move from dot to dot.` });
  const tip = make("div", { class: "tip", hidden: "" });
  mapBox.append(canvas, tip);
  const pen = canvas.getContext("2d");
  const onTheMap = new Map();
  dots.codes.forEach((codes) => onTheMap.set(codes[0], (onTheMap.get(codes[0]) ?? 0) + 1));
  data.levels[0].codes.forEach((code) => {
    if (onTheMap.has(code)) {
      highlight.append(make("option", { value: code }, `code ${code} (${plural(onTheMap.get(code), "dot", "dots")})`));
    }
  });
  // Buttons for the largest codes, each with the most frequent category of its items.
  const { code: codes, category, count } = depths[0];
  const buttons = data.levels[0].codes.slice(0, SOME_CODES).map((code) => {
    const branch = codes.indexOf(code);
    const kind = category[branch] < 0 ? examples(0, branch)[0] : categories[category[branch]];
    const button = make("button", { type: "button", "aria-pressed": "false", "data-code": code, onclick: () => {
      highlight.value = highlight.value === String(code) ? "" : String(code);
      highlight.dispatchEvent(new Event("change"));
    } }, make("span", { class: "swatch", "aria-hidden": "true" }), `code ${code}`, make("small", {}, kind ? bidi(kind) : "", ` ${counted(count[branch])}`));
    return button;
  });
  document.getElementById("legend").append(...buttons);
  // Left to right: the order of the arrow keys.
  const walk = dots.x.map((_, dot) => dot).sort((one, other) => dots.x[one] - dots.x[other] || one - other);
  const [xs, ys] = [dots.x, dots.y].map((axis) => [Math.min(...axis), Math.max(...axis)]);
  let [width, height, chosen] = [0, 0, -1];

  const highlighted = (dot) => highlight.value === "" || String(dots.codes[dot][0]) === highlight.value;

  repaint = () => {
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.code === highlight.value));
      button.querySelector(".swatch").style.background = colour(Number(button.dataset.code));
    }
    const ratio = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    canvas.style.height = `${height}px`;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    // One scale for both axes preserves distances.
    const margin = 24;
    const scale = Math.min((width - 2 * margin) / Math.max(xs[1] - xs[0], 1), (height - 2 * margin) / Math.max(ys[1] - ys[0], 1));
    places = dots.x.map((x, dot) => [
      width / 2 + (x - (xs[0] + xs[1]) / 2) * scale,
      height / 2 - (dots.y[dot] - (ys[0] + ys[1]) / 2) * scale,
    ]);
    const radius = dots.x.length > 1500 ? 2.6 : 3.6;
    const faintFirst = [...places.keys()].sort((one, other) => highlighted(one) - highlighted(other) || one - other);
    for (const dot of faintFirst) {
      pen.fillStyle = colour(dots.codes[dot][0], !highlighted(dot));
      pen.globalAlpha = highlighted(dot) ? 0.85 : 1;
      pen.beginPath();
      pen.arc(places[dot][0], places[dot][1], radius, 0, 2 * Math.PI);
      pen.fill();
    }
    pen.globalAlpha = 1;
    if (chosen >= 0) {
      pen.strokeStyle = getComputedStyle(mapBox).color;
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(places[chosen][0], places[chosen][1], radius + 4, 0, 2 * Math.PI);
      pen.stroke();
    }
  };

  const choose = (dot) => {
    if (dot === chosen) return;
    chosen = dot;
    repaint();
    tip.hidden = dot < 0;
    if (dot < 0) return;
    tip.replaceChildren(bidi(nameOfDot(dot)), make("small", {}, bidi(detailsOf(dot))));
    detail.replaceChildren(bidi(nameOfDot(dot)), `: ${detailsOf(dot)}`);
    const [x, y] = places[dot];
    tip.style.left = `${Math.max(8, Math.min(x + 14, width - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(8, Math.min(y + 14, height - tip.offsetHeight - 8))}px`;
  };

  const nearest = (event) => {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let [best, distance] = [-1, HOVER_RADIUS * HOVER_RADIUS];
    places.forEach((place, dot) => {
      const away = (place[0] - x) ** 2 + (place[1] - y) ** 2;
      if (away < distance && highlighted(dot)) [best, distance] = [dot, away];
    });
    return best;
  };

  canvas.addEventListener("pointermove", (event) => choose(nearest(event)));
  canvas.addEventListener("pointerdown", (event) => choose(nearest(event)));
  canvas.addEventListener("pointerleave", () => choose(-1));
  canvas.addEventListener("blur", () => choose(-1));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const shown = walk.filter(highlighted);
    choose(shown[(shown.indexOf(chosen) + step + shown.length) % shown.length]);
  });
  highlight.addEventListener("change", () => {
    chosen = -1;
    tip.hidden = true;
    repaint();
  });
  dark.addEventListener("change", () => {
    repaint();
    plant();
  });
  sized(mapBox, (now) => {
    [width, height] = [now, Math.round(Math.max(280, Math.min(now * 0.6, 560)))];
    repaint();
  });
}

if (dots.id.length) drawMap();
else mapBox.append(make("p", { class: "detail" }, "No items to draw."));
