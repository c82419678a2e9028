// Forest plot of differences, AUC from cold to warm items, calibration.
fill(choose("data"), data.map((each) => each.data));
choose("data").addEventListener("change", () => {
  state.at = data.findIndex((each) => each.data === choose("data").value);
  repaint();
});
const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(4)}`;

function fillChoices() {
  const comparable = now().rows.map(asRow).filter((row) => row.delta !== null && row.delta_low !== null);
  const distinct = (key) => [...new Set(comparable.map((row) => row[key]))];
  fill(choose("slice"), distinct("slice"));
  fill(choose("metric"), distinct("metric"));
  const testers = (row) => now().tested_by[row.arm] ?? {};
  const shared = comparable.filter((row) => !Object.values(testers(row)).includes(row.baseline)).map((row) => row.baseline);
  const roles = now().roles.filter((role) => comparable.some((row) => row.baseline === testers(row)[role]));
  fill(choose("baseline"), [...new Set([...shared, ...roles])]);
}

painted(() => {
  fillChoices();
  forest();
});
for (const id of ["slice", "metric", "baseline"]) choose(id).addEventListener("change", () => forest());

function forest() {
  const selection = { slice: choose("slice").value, metric: choose("metric").value, baseline: choose("baseline").value };
  const { baseline, ...others } = selection;
  const role = now().roles.includes(baseline);
  const rows = rowsOf(others).filter((row) => row.delta_low !== null && row.baseline === (role ? now().tested_by[row.arm]?.[baseline] : baseline));
  const slice = now().slices[selection.slice];
  choose("deltas-detail").textContent = rows.length
    ? `${selection.metric} against ${selection.baseline} on "${selection.slice}"${slice ? `: ${plural(slice.rows, "row", "rows")}, ${plural(slice.positives, "positive", "positives")}` : ""}.`
    : "No arm has a difference to this baseline on this slice.";
  const box = make("div");
  choose("deltas").replaceChildren(box);
  if (!rows.length) return;
  sized(box, (width) => {
    const reach = 1.08 * Math.max(...rows.flatMap((row) => [Math.abs(row.delta_low), Math.abs(row.delta_high)]), 1e-4);
    const [left, right, line] = [width > 620 ? 250 : 70, width > 620 ? 200 : 10, 28];
    const height = rows.length * line + 30;
    const x = (value) => left + ((value + reach) / (2 * reach)) * (width - left - right);
    const svg = draw("svg", { width, height, role: "img", "aria-label": "Differences with confidence intervals; the numbers are in the tables below." });
    for (const { at, text } of ticks(-reach, reach)) {
      svg.append(draw("line", { class: "grid", x1: x(at), x2: x(at), y1: 0, y2: height - 24 }),
        draw("text", { x: x(at), y: height - 8, "text-anchor": "middle" }, text));
    }
    svg.append(draw("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: height - 24 }));
    rows.forEach((row, place) => {
      const y = place * line + line / 2;
      const label = `${signed(row.delta)} [${signed(row.delta_low)}, ${signed(row.delta_high)}]`;
      const group = draw("g", { class: `row ${row.verdict.replace(" ", "-")}`, "data-arm": row.arm },
        draw("title", {}, `${row.arm}: ${label} to ${row.baseline}, ${row.verdict}`),
        draw("text", { class: "name", x: 0, y: y + 4 }, width > 620 ? `${row.arm}  ${now().titles[row.arm] ?? ""}` : row.arm),
        draw("line", { class: "interval", x1: x(row.delta_low), x2: x(row.delta_high), y1: y, y2: y }),
        draw("circle", { class: "mark", cx: x(row.delta), cy: y, r: 5 }));
      if (right > 50) group.append(draw("text", { x: width, y: y + 4, "text-anchor": "end" }, label));
      svg.append(group);
    });
    box.replaceChildren(svg);
  });
}

// Show six arms by default, since more lines are hard to distinguish. The ceilings are hidden because they compress the scale.
const shownFirst = new Set(["id", "id_content", "id_codes", "saviorrec", "smile", "gbdt", "blend"]);
for (const ceiling of ceilings) state.hidden.add(ceiling);
for (const arm of allArms) if (allArms.length > 7 && !shownFirst.has(arm)) state.hidden.add(arm);

painted(() => {
  const names = Object.keys(now().slices).filter((name) => name.startsWith("prior ") && name !== "prior 0-99");
  const rows = now().rows.map(asRow).filter((row) => row.metric === "auc" && names.includes(row.slice));
  const arms = [...new Set(rows.map((row) => row.arm))];
  legend(choose("buckets-legend"), arms, state.hidden, repaint);
  const box = make("div");
  choose("buckets").replaceChildren(box);
  const shown = arms.filter((arm) => !state.hidden.has(arm));
  if (!shown.length) return;
  sized(box, (width) => {
    const drawn = rows.filter((row) => shown.includes(row.arm));
    const low = Math.min(...drawn.map((row) => row.low ?? row.mean));
    const high = Math.max(...drawn.map((row) => row.high ?? row.mean));
    const labels = names.map((name) => name.replace("prior ", ""));
    const { svg, x, y, step } = grid(width, 300, labels, low - 0.005, high + 0.005, "AUC by earlier interactions; the numbers are in the results file.");
    shown.forEach((arm, place) => {
      const points = names.flatMap((name, at) => {
        const row = drawn.find((each) => each.arm === arm && each.slice === name);
        return row ? [[x(at) + (place - (shown.length - 1) / 2) * Math.min(9, (step * 0.7) / shown.length), row]] : [];
      });
      const group = draw("g", { "data-arm": arm }, draw("path", { class: "series", style: { stroke: hue(arm) }, d: pathOf(points.map(([at, row]) => [at, y(row.mean)])) }));
      for (const [at, row] of points) {
        if (row.low !== null) group.append(draw("line", { x1: at, x2: at, y1: y(row.low), y2: y(row.high), style: { stroke: hue(arm), opacity: 0.45 } }));
        group.append(draw("circle", { cx: at, cy: y(row.mean), r: 4, style: { fill: hue(arm) } }, draw("title", {}, `${arm}, ${row.slice}: ${row.mean.toFixed(4)}`)));
      }
      svg.append(group);
    });
    box.replaceChildren(svg);
  });
});

painted(() => {
  const box = make("div");
  choose("calibration").replaceChildren(box);
  const shown = Object.entries(now().calibration).filter(([arm]) => !state.hidden.has(arm));
  if (!shown.length) return;
  sized(box, (full) => {
    const width = Math.min(full, 620);
    const top = 1.05 * Math.max(...shown.flatMap(([, bins]) => bins.flatMap(([predicted, clicked]) => [predicted, clicked])));
    const { svg, y } = grid(width, 360, [], 0, top, "Share of clicks by predicted probability");
    const x = (value) => 56 + (value / top) * (width - 66);
    for (const { at, text } of ticks(0, top, 5)) svg.append(draw("text", { x: x(at), y: 354, "text-anchor": "middle" }, text));
    svg.append(draw("path", { class: "same", d: pathOf([[x(0), y(0)], [x(top), y(top)]]) }));
    for (const [arm, bins] of shown) {
      const group = draw("g", { "data-arm": arm }, draw("path", { class: "series", style: { stroke: hue(arm) }, d: pathOf(bins.map(([predicted, clicked]) => [x(predicted), y(clicked)])) }));
      for (const [predicted, clicked] of bins) {
        group.append(draw("circle", { cx: x(predicted), cy: y(clicked), r: 3.5, style: { fill: hue(arm) } },
          draw("title", {}, `${arm}: predicted ${predicted.toFixed(4)}, clicked ${clicked.toFixed(4)}`)));
      }
      svg.append(group);
    }
    box.replaceChildren(svg);
  });
});
