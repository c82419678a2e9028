// Code usage per level, and drift over time.
const levelBox = document.getElementById("levels");
data.levels.forEach((level, number) => {
  const { codes, counts, size } = level;
  const used = codes.length;
  const top = counts[0] ?? 0;
  const median = counts[Math.floor(used / 2)] ?? 0;
  const log = top > 30 * Math.max(median, 1);
  const caption = used
    ? `${counted(used)} of ${counted(size)} codes used. Fullest: code ${codes[0]} with ${plural(top, "item", "items")}; ` +
      `median of used codes: ${counted(median)}.${log ? " The scale is logarithmic." : ""}`
    : "No item has codes.";
  const note = make("p", {}, caption);
  const chart = make("div");
  levelBox.append(
    make("figure", { class: "level" },
      make("h3", {}, level.extra ? `Code ${number + 1}, not a level of the tree` : `Level ${number + 1}`), note, chart),
  );
  if (!used) return;

  sized(chart, (width) => {
    const [left, base, height] = [44, 150, 168];
    const room = width - left;
    const up = log ? (count) => Math.log(1 + count) / Math.log(1 + top) : (count) => count / top;
    const y = (count) => base - up(count) * (base - 8);
    const step = room / size;
    const gap = step > 4 ? 1 : 0;
    let bars = "";
    counts.forEach((count, place) => {
      const from = left + place * step;
      bars += `M${from.toFixed(2)} ${base}V${y(count).toFixed(2)}H${(from + step - gap).toFixed(2)}V${base}Z`;
    });
    const powers = [1, 10, 100, 1000, 10000, 100000].map((at) => ({ at, text: counted(at) }));
    const marks = log ? powers.filter(({ at }) => at <= top) : ticks(0, top).filter(({ at }) => Number.isInteger(at));
    const even = data.total / size;
    const svg = draw("svg", { width, height, role: "img", "aria-label": `Level ${number + 1}: ${caption}` });
    for (const { at, text } of marks) {
      svg.append(
        draw("line", { class: "grid", x1: left, x2: width, y1: y(at), y2: y(at) }),
        draw("text", { x: left - 6, y: y(at) + 4, "text-anchor": "end" }, text),
      );
    }
    svg.append(draw("path", { class: "fill", d: bars }));
    if (used < size) {
      svg.append(draw("rect", { class: "pale", x: left + used * step, width: (size - used) * step, y: base - 4, height: 4 }));
      if ((size - used) * step > 70) {
        svg.append(draw("text", { x: width, y: base + 15, "text-anchor": "end" }, `${counted(size - used)} unused`));
      }
    }
    svg.append(draw("line", { class: "even", x1: left, x2: width, y1: y(even), y2: y(even) }));
    svg.addEventListener("pointermove", (event) => {
      const place = Math.floor((event.clientX - svg.getBoundingClientRect().left - left) / step);
      if (place >= 0 && place < used) {
        note.textContent = `Code ${codes[place]}: ${plural(counts[place], "item", "items")} (${percent(counts[place], data.total)}).`;
      } else if (place >= used && place < size) note.textContent = `${counted(size - used)} codes are unused.`;
    });
    svg.addEventListener("pointerleave", () => { note.textContent = caption; });
    chart.replaceChildren(svg);
  });
});

const periods = data.drift;
const firstAfter = periods.findIndex((period) => period.after_fit);

// The frame of one drift chart: grid lines, period labels, and the end of the fit.
function frame(width, height, top, label) {
  const [left, base] = [56, height - 24];
  const step = (width - left) / periods.length;
  const x = (place) => left + (place + 0.5) * step;
  const y = (value) => base - (value / (top || 1)) * (base - 16);
  const svg = draw("svg", { width, height, role: "img", "aria-label": label });
  for (const { at, text } of ticks(0, top, 5)) {
    svg.append(
      draw("line", { class: "grid", x1: left, x2: width, y1: y(at), y2: y(at) }),
      draw("text", { x: left - 8, y: y(at) + 4, "text-anchor": "end" }, text),
    );
  }
  const every = Math.max(1, Math.ceil(84 / step));
  periods.forEach((period, place) => {
    if (place % every === 0) svg.append(draw("text", { x: x(place), y: height - 6, "text-anchor": "middle" }, period.label));
  });
  if (firstAfter >= 0) {
    const cut = left + firstAfter * step;
    const late = cut > width - 90;
    svg.append(
      draw("line", { class: "cut", x1: cut, x2: cut, y1: 0, y2: base }),
      draw("text", { class: "cut-name", x: cut + (late ? -6 : 6), y: 11, "text-anchor": late ? "end" : "start" }, "end of the fit"),
    );
  }
  return { svg, x, y, step, base };
}

const describePeriod = (period) => `${period.label}, ${period.after_fit ? "after" : "before"} the fit: ${plural(period.items, "item", "items")}`;

function chart(title, caption, height, paint) {
  const box = make("div");
  document.getElementById("drift").append(make("div", {}, make("h3", {}, title, " ", make("small", {}, caption)), box));
  sized(box, (width) => box.replaceChildren(paint(width, height)));
}

if (periods.length) {
  chart("Mean residual norm", "distance between items and their reconstructions", 180, (width, height) => {
    const top = Math.max(...periods.map((period) => period.residual_norm)) * 1.1;
    const { svg, x, y } = frame(width, height, top, "Mean residual norm per period; the numbers are in the table below.");
    const points = periods.map((period, place) => `${x(place).toFixed(1)} ${y(period.residual_norm).toFixed(1)}`);
    svg.append(draw("path", { class: "trend", d: `M${points.join("L")}` }));
    periods.forEach((period, place) => {
      const dot = draw("circle", { class: "dot", cx: x(place), cy: y(period.residual_norm), r: 4.5 });
      dot.append(draw("title", {}, `${describePeriod(period)}, ${period.residual_norm.toFixed(4)}`));
      svg.append(dot);
    });
    return svg;
  });
  chart("Stability index of first codes", "the tick is the 95 % point without drift; bars above it are highlighted", 180, (width, height) => {
    const top = Math.max(...periods.map((period) => Math.max(period.stability, period.chance)), 0.05) * 1.05;
    const { svg, x, y, step, base } = frame(width, height, top, "Population stability index per period; the numbers are in the table below.");
    const wide = Math.min(36, step * 0.6);
    periods.forEach((period, place) => {
      const at = y(period.stability);
      const bar = draw("rect", {
        class: period.stability > period.chance ? "beyond" : "fill",
        x: x(place) - wide / 2, width: wide, y: at, height: Math.max(base - at, 1),
      });
      bar.append(draw("title", {}, `${describePeriod(period)}, ${period.stability.toFixed(3)} (chance ${period.chance.toFixed(3)})`));
      const tick = y(period.chance);
      svg.append(bar, draw("line", { class: "chance", x1: x(place) - wide * 0.75, x2: x(place) + wide * 0.75, y1: tick, y2: tick }));
    });
    return svg;
  });
  chart("Items that arrived", "with few items the charts above are noisy", 110, (width, height) => {
    const top = Math.max(...periods.map((period) => period.items));
    const { svg, x, y, step, base } = frame(width, height, top, "Items per period; the numbers are in the table below.");
    const wide = Math.min(36, step * 0.6);
    periods.forEach((period, place) => {
      const at = y(period.items);
      const bar = draw("rect", { class: "fill", x: x(place) - wide / 2, width: wide, y: at, height: Math.max(base - at, 1) });
      bar.append(draw("title", {}, describePeriod(period)));
      svg.append(bar);
    });
    return svg;
  });
}
