// First codes ranked by number of items; adjacent ranks get distant colours.
const rankOfCode = new Map(data.levels.length ? data.levels[0].codes.map((code, rank) => [code, rank]) : []);
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function colour(code, faint = false) {
  const rank = rankOfCode.get(code) ?? 0;
  const hue = (25 + rank * 137.508) % 360;
  const light = (dark.matches ? 70 : 58) + [0, 9, -9][rank % 3];
  return `oklch(${light}% ${faint ? 0.03 : 0.15} ${hue.toFixed(1)} / ${faint ? 0.25 : 1})`;
}
