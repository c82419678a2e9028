"""The command that turns texts and pictures into content vectors with pretrained models."""

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
    source: Annotated[str, typer.Argument(help="A folder with items.parquet or a SQLAlchemy URL.")],
    out: Annotated[
        Optional[Path],  # noqa: UP045 (Typer reads the annotation)
        typer.Option(help="Folder or .parquet file; default: the source's folder."),
    ] = None,
    text: Annotated[str, typer.Option(help="Text model: a folder, or a name of sentence-transformers.")] = "",
    text_columns: Annotated[str, typer.Option(help="First non-blank of these, with commas; default: text,title.")] = "",
    prompt: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Put before every text; default: the model's own."),
    ] = None,
    max_tokens: Annotated[Optional[int], typer.Option(min=3, help="Texts are cut after so many.")] = None,  # noqa: UP045
    image: Annotated[
        str, typer.Option(help="Picture model: a folder, or a name such as openai/clip-vit-base-patch32.")
    ] = "",
    pictures: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of <item_id>.jpg or .png; or where paths start."),
    ] = None,
    picture_column: Annotated[Optional[str], typer.Option(help="Column of items with paths of pictures.")] = None,  # noqa: UP045
    batch_size: Annotated[int, typer.Option(min=1, help="Texts or pictures at once.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 or mps.")] = "auto",
    cache: Annotated[Optional[Path], typer.Option(help="Default: embedding_cache beside the file.")] = None,  # noqa: UP045
) -> None:
    """Embed item texts and pictures with pretrained models; only what is new is computed."""
    from semantic_ids.pretrained import ImageSpec, TextSpec, embed_items
    from sidkit.core.config import resolved_url, validated
    from sidkit.core.errors import ConfigError

    place = resolved_url(source)
    if out is None and "://" in place:
        raise ConfigError("a database is only read: say with --out where item_embeddings.parquet goes")
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
        raise ConfigError("nothing to embed: name a model with --text, --image or both")
    beside = target.parent if target.suffix == ".parquet" else target
    with progress_bar() as told:
        report = embed_items(source, target, specs, cache or beside / "embedding_cache", progress=told)
    _tell(report)


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress bar per modality on the terminal, as the ``progress`` of ``embed_items``."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def told(modality: str, done: int, total: int | None) -> None:
            if modality not in tasks:
                tasks[modality] = bars.add_task(modality, total=total)
            bars.update(tasks[modality], completed=done)

        yield told


def _tell(report: EmbedReport) -> None:
    for name, done in report.modalities.items():
        cut = f", {done.cut:,} cut at {done.max_tokens} tokens" if done.cut else ""
        typer.echo(
            f"{name}: {done.embedded:,} embedded, {done.from_cache:,} from the cache, "
            f"{sum(done.missing.values()):,} without a vector{cut}; {done.width or 0} elements"
        )
        for reason, count in done.missing.items():
            typer.echo(f"  {count:,} x {reason}")
    for reason, count in report.refused.items():
        typer.echo(f"left out: {count:,} x {reason}")
    typer.echo(f"{report.rows:,} rows in {report.out}" + (f", kept {', '.join(report.kept)}" if report.kept else ""))
