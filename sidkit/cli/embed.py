"""The ``data embed`` command: embed item texts and images with pretrained models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidkit.cli.options import data_app
from sidkit.cli.output import VERBOSITY, say
from sidkit.core.id_lists import comma_separated

if TYPE_CHECKING:
    from semantic_ids.pretrained import AttributeSpec, EmbedReport, ImageSpec, Progress, TextSpec


@data_app.command("embed")
def embed(
    source: Annotated[str, typer.Argument(help="Folder with items.parquet, or SQLAlchemy URL.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Output folder or .parquet file. Default: the source's folder."),
    ] = None,
    text: Annotated[str, typer.Option(help="Text model: folder, or model name of sentence-transformers.")] = "",
    text_columns: Annotated[
        str, typer.Option(help="Columns separated by commas; the first non-blank one is used. Default: text,title.")
    ] = "",
    prompt: Annotated[
        str | None,
        typer.Option(help="Prompt prepended to every text. Default: the model's own."),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=3, help="Truncate texts to this many tokens.")] = None,
    image: Annotated[
        str, typer.Option(help="Image model: folder, or model name such as openai/clip-vit-base-patch32.")
    ] = "",
    pictures: Annotated[
        Path | None,
        typer.Option(help="Folder with <item_id>.jpg or .png, or base folder of the paths in --picture-column."),
    ] = None,
    picture_column: Annotated[str | None, typer.Option(help="Column of items with image paths.")] = None,
    attributes: Annotated[
        str, typer.Option(help="Columns of attributes, separated by commas: vectors with a column per attribute.")
    ] = "",
    attribute_width: Annotated[int, typer.Option(min=8, max=8192, help="Columns of the vectors of attributes.")] = 256,
    kg_text: Annotated[str, typer.Option(help="Text model for --kg-columns as one text: folder or model name.")] = "",
    kg_columns: Annotated[
        str, typer.Option(help="Columns of the text of attributes, separated by commas.")
    ] = "title,category",
    batch_size: Annotated[int, typer.Option(min=1, help="Texts or images per batch.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 or mps.")] = "auto",
    cache: Annotated[
        Path | None, typer.Option(help="Cache folder. Default: embedding_cache next to the output file.")
    ] = None,
) -> None:
    """Embed texts, images and attributes of items.

    Unchanged items come from the cache.
    """
    from semantic_ids.pretrained import AttributeSpec, ImageSpec, KgTextSpec, TextSpec, embed_items
    from sidkit.core.config import resolved_url, validated
    from sidkit.core.errors import ConfigError

    location = resolved_url(source)
    if out is None and "://" in location:
        raise ConfigError("the source is a database, which is read-only; set --out to write item_embeddings.parquet")
    target = Path(location) if out is None else out
    specs: dict[str, TextSpec | ImageSpec | AttributeSpec] = {}
    if text:
        columns = tuple(comma_separated(text_columns))
        stated: dict[str, object] = {"model": text, "columns": columns, "prompt": prompt, "max_tokens": max_tokens}
        specs["text"] = validated(TextSpec, {**stated, "batch_size": batch_size, "device": device}, "--text")
    if image:
        stated = {"model": image, "column": picture_column, "folder": pictures}
        specs["image"] = validated(ImageSpec, {**stated, "batch_size": batch_size, "device": device}, "--image")
    if kg_text:
        columns = tuple(comma_separated(kg_columns))
        stated = {"model": kg_text, "columns": columns, "prompt": prompt, "max_tokens": max_tokens}
        specs["kg_text"] = validated(KgTextSpec, {**stated, "batch_size": batch_size, "device": device}, "--kg-text")
    if attributes:
        stated = {"columns": tuple(comma_separated(attributes)), "width": attribute_width}
        specs["attributes"] = validated(AttributeSpec, stated, "--attributes")
    if not specs:
        raise ConfigError("nothing to embed given; set --text, --image, --kg-text or --attributes")
    folder = target.parent if target.suffix == ".parquet" else target
    with progress_bar() as on_progress:
        report = embed_items(source, target, specs, cache or folder / "embedding_cache", progress=on_progress)
    _show(report)


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """Yield a ``progress`` callback for ``embed_items`` that shows one bar per modality, from its first call on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars = Bars(*columns, console=Console(stderr=True), disable=VERBOSITY.quiet)
    tasks: dict[str, Any] = {}

    def on_progress(modality: str, done: int, total: int | None) -> None:
        if modality not in tasks:
            bars.start()
            tasks[modality] = bars.add_task(modality, total=total)
        bars.update(tasks[modality], completed=done)

    try:
        yield on_progress
    finally:
        if tasks:  # bars that stop without a task print an empty line, in front of the error that came first
            bars.stop()


def _show(report: EmbedReport) -> None:
    for name, done in report.modalities.items():
        cut = f", {done.cut:,} truncated to {done.max_tokens} tokens" if done.cut else ""
        say(
            f"{name}: {done.embedded:,} embedded, {done.from_cache:,} from the cache, "
            f"{sum(done.missing.values()):,} without a vector{cut}; {done.width or 0} dimensions"
        )
        for reason, count in done.missing.items():
            say(f"  {count:,} x {reason}")
    for reason, count in report.refused.items():
        say(f"skipped: {count:,} x {reason}")
    carried_over = f", carried over {', '.join(report.carried_over)}" if report.carried_over else ""
    say(f"{report.rows:,} rows in {report.out}{carried_over}")
