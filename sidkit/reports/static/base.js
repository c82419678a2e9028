// Shared helpers. Text is inserted as text nodes only, because titles may contain markup.
const data = JSON.parse(document.getElementById("report-data").textContent);
const drawing = document.getElementById("blank").namespaceURI;

const counted = (number) => number.toLocaleString("en");
const plural = (number, one, many) => `${counted(number)} ${number === 1 ? one : many}`;

function percent(part, whole) {
  const share = (100 * part) / Math.max(whole, 1);
  return share > 0 && share < 0.1 ? "<0.1%" : `${share.toFixed(share < 10 ? 1 : 0)}%`;
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") Object.assign(node.style, value);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const make = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) => filled(document.createElementNS(drawing, tag), attributes, children);
const bidi = (text) => make("bdi", {}, text);

// Draws into a box at its current width, and redraws when the width changes.
function sized(box, paint) {
  let width = 0;
  const again = () => {
    const now = Math.floor(box.clientWidth);
    if (now > 0 && now !== width) {
      width = now;
      paint(width);
    }
  };
  new ResizeObserver(again).observe(box);
  again();
}

// About `count` round tick marks within low..high. Their texts have the decimals of the step, so that none is rounded.
function ticks(low, high, count = 4) {
  if (!(high > low)) return [{ at: low, text: counted(low) }];
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const digits = Math.max(0, -Math.floor(Math.log10(step * 1.001)));
  const marks = [];
  for (let place = Math.ceil(low / step - 1e-6); place * step <= high + step * 1e-6; place += 1) {
    const at = Number((place * step).toPrecision(8)) + 0; // + 0 makes -0 a 0
    marks.push({ at, text: at.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }) });
  }
  return marks;
}
