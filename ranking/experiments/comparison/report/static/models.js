// Probes of the saved rankers: gates, mutation test, attention.
painted(() => {
  const gates = Object.entries(now().probes.gates ?? {});
  const box = choose("gates");
  box.replaceChildren();
  if (!gates.length) box.append(make("p", { class: "hint" }, "No arm of this comparison has a gate."));
  for (const kind of gates.length ? ["prior", "age"] : []) {
    const names = [...new Set(gates.flatMap(([, curves]) => curves[kind].map((bucket) => bucket.name)))];
    const chart = make("div");
    const caption = kind === "prior" ? "by the item's earlier interactions" : "by the item's age";
    box.append(make("div", { "data-kind": kind }, make("h3", {}, "Gate ", make("small", {}, caption)),
      make("div", { class: "legend" }, ...gates.map(([arm]) =>
        make("span", { class: "chip" }, make("span", { class: "swatch-line inline", style: { background: hue(arm) } }), ` ${arm}`))), chart));
    sized(chart, (width) => {
      const { svg, x, y, step } = grid(width, 220, names, 0, 1, `Mean gate ${caption}`);
      gates.forEach(([arm, curves], place) => {
        const shift = (place - (gates.length - 1) / 2) * Math.min(12, (step * 0.7) / gates.length);
        const points = curves[kind].map((bucket) => [x(names.indexOf(bucket.name)) + shift, bucket]);
        const group = draw("g", { "data-arm": arm }, draw("path", { class: "series", style: { stroke: hue(arm) }, d: pathOf(points.map(([at, bucket]) => [at, y(bucket.mean)])) }));
        for (const [at, bucket] of points) {
          group.append(
            draw("line", { x1: at, x2: at, y1: y(bucket.low), y2: y(bucket.high), style: { stroke: hue(arm), opacity: 0.5 } }),
            draw("circle", { cx: at, cy: y(bucket.mean), r: 4, style: { fill: hue(arm) } },
              draw("title", {}, `${arm}, ${bucket.name}: ${bucket.mean.toFixed(3)} (${plural(bucket.rows, "row", "rows")})`)),
          );
        }
        svg.append(group);
      });
      chart.replaceChildren(svg);
    });
  }
});

painted(() => {
  const tested = Object.entries(now().probes.mutation ?? {}).filter(([, depths]) => depths.length);
  legend(choose("mutation-legend"), tested.map(([arm]) => arm), state.hidden, repaint);
  const box = make("div");
  choose("mutation").replaceChildren(box);
  const shown = tested.filter(([arm]) => !state.hidden.has(arm));
  if (!shown.length) {
    box.append(make("p", { class: "hint" }, "All arms are hidden."));
    return;
  }
  sized(box, (width) => {
    const deepest = Math.max(...shown.map(([, depths]) => depths.at(-1).depth));
    const names = Array.from({ length: deepest + 1 }, (_, depth) => (depth ? plural(depth, "code shared", "codes shared") : "any item"));
    const top = 1.08 * Math.max(...shown.flatMap(([, depths]) => depths.flatMap((each) => [each.change, each.random])));
    const { svg, x, y } = grid(width, 280, names, 0, top || 1, "Mean change of the score by shared codes");
    for (const [arm, depths] of shown) {
      const group = draw("g", { "data-arm": arm },
        draw("path", { class: "beside", style: { stroke: hue(arm) }, d: pathOf(depths.map((each) => [x(each.depth), y(each.random)])) }),
        draw("path", { class: "series", style: { stroke: hue(arm) }, d: pathOf(depths.map((each) => [x(each.depth), y(each.change)])) }));
      for (const each of depths) {
        group.append(draw("circle", { cx: x(each.depth), cy: y(each.change), r: 4, style: { fill: hue(arm) } },
          draw("title", {}, `${arm}, ${names[each.depth]}: ${each.change.toFixed(4)}, any item ${each.random.toFixed(4)} (${plural(each.rows, "row", "rows")})`)));
      }
      svg.append(group);
    }
    box.replaceChildren(svg);
  });
});

function attention() {
  const examples = (now().probes.attention ?? {})[choose("attention-arm").value] ?? [];
  const named = (item) => bidi(item.title ?? item.id);
  choose("attention").replaceChildren(
    ...(examples.length ? [] : [make("p", { class: "hint" }, "Nothing to show: no clicked test row has a long enough history.")]),
    ...examples.map((example) => make("div", { class: "example" },
      make("h3", {}, "Candidate: ", named(example), " ", make("small", {}, `score ${example.score.toFixed(3)}, history of ${plural(example.history, "item", "items")}`)),
      make("div", { class: "maps" }, ...example.maps.map((map) => make("div", {}, make("small", {}, map.name),
        make("ol", {}, ...map.items.map((item) => make("li", {},
          make("span", { class: "bar" }, make("span", { style: { width: `${(100 * item.weight).toFixed(1)}%`, background: "var(--accent)" } })),
          make("span", {}, percent(item.weight, 1)),
          make("span", { class: "title" }, named(item)))))))))),
  );
}
painted(() => {
  const arms = Object.keys(now().probes.attention ?? {});
  fill(choose("attention-arm"), arms, choose("attention-arm").value || "saviorrec");
  attention();
});
choose("attention-arm").addEventListener("change", attention);
