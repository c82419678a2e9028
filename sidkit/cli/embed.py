"""``sidkit data embed``: content vectors of texts and images from pretrained models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from sidkit.cli.options import data_app
from sidkit.core.id_lists import comma_separated

if TYPE_CHECKING:
    from semantic_ids.pretrained import EmbedReport, ImageSpec, Progress, TextSpec


@data_app.command("embed")
def embed(
    source: Annotated[str, typer.Argument(help="Folder with items.parquet, or a SQLAlchemy URL.")],
    out: Annotated[
        Optional[Path],  # noqa: UP045 (Typer reads the annotation)
        typer.Option(help="Output folder or .parquet file; default: the source's folder."),
    ] = None,
    text: Annotated[str, typer.Option(help="Text model: a folder or a sentence-transformers name.")] = "",
    text_columns: Annotated[
        str, typer.Option(help="Comma-separated columns, the first non-blank one is used; default: text,title.")
    ] = "",
    prompt: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Prefix of every text; default: the model's own prompt."),
    ] = None,
    max_tokens: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=3, help="Maximum tokens per text; longer texts are truncated."),
    ] = None,
    image: Annotated[
        str, typer.Option(help="Image model: a folder or a name such as openai/clip-vit-base-patch32.")
    ] = "",
    pictures: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of <item_id>.jpg or .png files, or the root of relative paths."),
    ] = None,
    picture_column: Annotated[Optional[str], typer.Option(help="Column of items with image paths.")] = None,  # noqa: UP045
    batch_size: Annotated[int, typer.Option(min=1, help="Texts or images per batch.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 or mps.")] = "auto",
    cache: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Cache folder; default: embedding_cache beside the output."),
    ] = None,
) -> None:
    """Embed item texts and images with pretrained models; only new or changed items are computed."""
    from semantic_ids.pretrained import ImageSpec, TextSpec, embed_items
    from sidkit.core.config import resolved_url, validated
    from sidkit.core.errors import ConfigError

    place = resolved_url(source)
    if out is None and "://" in place:
        raise ConfigError(
            "expected --out with a database as the source, which is read-only; pass the folder for item_embeddings.parquet"
        )
    target = Path(place) if out is None else out
    specs: dict[str, TextSpec | ImageSpec] = {}
    if text:
        columns = tuple(comma_separated(text_columns))
        stated: dict[str, object] = {"model": text, "columns": columns, "prompt": prompt, "max_tokens": max_tokens}
        specs["text"] = validated(TextSpec, {**stated, "batch_size": batch_size, "device": device}, "--text")
    if image:
        stated = {"model": image, "column": picture_column, "folder": pictures}
        specs["image"] = validated(ImageSpec, {**stated, "batch_size": batch_size, "device": device}, "--image")
    if not specs:
        raise ConfigError("expected a model, got none; pass one with --text, --image or both")
    beside = target.parent if target.suffix == ".parquet" else target
    with progress_bar() as progress:
        report = embed_items(source, target, specs, cache or beside / "embedding_cache", progress=progress)
    _print_report(report)


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """Yield a ``progress`` callback for ``embed_items`` that shows one bar per modality."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def update(modality: str, done: int, total: int | None) -> None:
            if modality not in tasks:
                tasks[modality] = bars.add_task(modality, total=total)
            bars.update(tasks[modality], completed=done)

        yield update


def _print_report(report: EmbedReport) -> None:
    for name, done in report.modalities.items():
        cut = f", {done.cut:,} truncated at {done.max_tokens} tokens" if done.cut else ""
        typer.echo(
            f"{name}: {done.embedded:,} embedded, {done.from_cache:,} from the cache, "
            f"{sum(done.missing.values()):,} without a vector{cut}; {done.width or 0} dimensions"
        )
        for reason, count in done.missing.items():
            typer.echo(f"  {count:,} x {reason}")
    for reason, count in report.refused.items():
        typer.echo(f"skipped: {count:,} x {reason}")
    typer.echo(f"{report.rows:,} rows in {report.out}" + (f", kept {', '.join(report.kept)}" if report.kept else ""))
