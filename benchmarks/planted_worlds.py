"""Worlds in which the parts have something to find that act nowhere else: sources for ``benchmarks/family.py``.

    python benchmarks/planted_worlds.py [--out .work/planted] [--impressions 200000]

All have the impressions of the synthetic world ``clustered`` and other clicks, the first two with its click probabilities:

- ``competing``: the items of a page compete for at most one click, by a softmax of three times their logits and the choice of
  none; nine pages in ten are clicked. The other candidates change the chance of each: a joint re-ranker can know it, a ranker
  cannot.
- ``shifted``: there are 150 items, and from the end of the training rows on, each is liked more or less than before, by a
  number of its own (standard deviation 1.5 in the logit). A ranker that was trained before cannot know it, an adapter can.
- ``tastes``: every item has one of six categories and one of two styles, and every user likes one style in each category, by
  chance. Content is the sum of a vector of the category, one of the style, and noise. The mean of a history says what a user
  clicked, and which style in all; which style in which category, only attention to the items of the candidate's category can
  tell.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidkit.core.arrays import Doubles, Ints
from sidkit.core.config import SplitSettings
from sidkit.datasets.synthetic import Sizes, write_world

TRAINING = SplitSettings().train
"""Share of the log before its validation rows, as in the settings of a new repository."""
CLICKED_PAGES = 0.9
STEEP = 3.0
"""Factor on the logits of ``competing``."""
SHIFT = 1.5
ITEMS = 150
"""Items of the first two worlds."""
WIDTH = 64
"""Columns of the content of ``tastes``."""
TASTE = 2.0
"""Change of the logit by a style that is liked or not."""
CLICKED = -1.0
"""Logit of ``tastes`` between both."""
NOISE = 0.05
"""Standard deviation of the content's noise per column, where categories and styles have vectors of length 1."""


def competing(logit: Doubles, page: Ints, rng: np.random.Generator) -> Ints:
    """At most one click per page: the largest of the items' logits and that of none, each with Gumbel noise."""
    drawn = STEEP * logit + rng.gumbel(size=len(logit))
    highest = np.full(page.max() + 1, -np.inf)
    np.maximum.at(highest, page, drawn)
    none = rng.gumbel(size=len(highest))
    none += np.quantile(highest - none, 1 - CLICKED_PAGES)
    return ((drawn == highest[page]) & (drawn > none[page])).astype(np.int64)


def shifted(logit: Doubles, item: Ints, at_us: Ints, rng: np.random.Generator) -> Ints:
    """Clicks with a shift per item after the training rows."""
    after = at_us >= np.quantile(at_us, TRAINING)
    shift = SHIFT * rng.standard_normal(item.max() + 1)
    return (rng.random(len(logit)) < 1 / (1 + np.exp(-(logit + after * shift[item])))).astype(np.int64)


def tastes(user: Ints, item: Ints, category: Ints, rng: np.random.Generator) -> tuple[Ints, Doubles]:
    """Clicks, and the content of all items, float64 [items, WIDTH]; ``category`` has one value per item."""
    categories = category.max() + 1
    style = rng.choice([-1, 1], size=len(category))
    liked = rng.choice([-1, 1], size=(user.max() + 1, categories))
    logit = CLICKED + TASTE * liked[user, category[item]] * style[item]
    axes = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
    content = axes[category] + style[:, None] * axes[categories]
    content += NOISE * rng.standard_normal(content.shape)
    return (rng.random(len(logit)) < 1 / (1 + np.exp(-logit))).astype(np.int64), content


def write(folder: Path, world: str, impressions: int) -> None:
    """Write the source of a world into a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    write_world(folder, "clustered", Sizes(impressions, items=None if world == "tastes" else ITEMS))
    log, oracle = pq.read_table(folder / "interactions.parquet"), pq.read_table(folder / "oracle.parquet")
    probability = oracle["probability"].to_numpy()
    logit = np.log(probability / (1 - probability))
    rng = np.random.default_rng(0)

    def numbered(column: str) -> Ints:
        return np.unique(log[column].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)[1]

    if world == "competing":
        label = competing(logit, numbered("request_id"), rng)
    elif world == "tastes":
        items = pq.read_table(folder / "items.parquet", columns=["item_id", "category"])
        category = items["category"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
        place = pc.index_in(log["item_id"], items["item_id"].combine_chunks()).to_numpy().astype(np.int64)
        label, content = tastes(numbered("user_id"), place, category, rng)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(content.ravel(), pa.float32()), WIDTH)
        pq.write_table(pa.table({"item_id": items["item_id"], "text": lists}), folder / "item_embeddings.parquet")
    else:
        at_us = log["timestamp"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
        label = shifted(logit, numbered("item_id"), at_us, rng)
    log = log.drop_columns("converted").set_column(
        log.schema.get_field_index("label"), "label", pa.array(label, pa.int8())
    )
    pq.write_table(log, folder / "interactions.parquet", compression="zstd")
    (folder / "oracle.parquet").unlink()
    print(f"{folder}: {len(log):,} impressions, {label.mean():.3f} clicked")


def main() -> None:
    """Write the sources."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / ".work" / "planted")
    parser.add_argument("--impressions", type=int, default=200_000)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for world in ("competing", "shifted", "tastes"):
        write(options.out / world, world, options.impressions)


if __name__ == "__main__":
    main()
