"""The command that serves over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sidkit.cli.options import RepoOption
from sidkit.cli.output import say


def serve(
    repo: RepoOption = Path(),
    ranker: Annotated[
        str | None, typer.Option(help="Serve this ranker; default: the serving one, also after a promotion.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address. One that other machines reach needs a bearer token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0: any free one.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Number of processes.")] = 1,
    engine: Annotated[
        Literal["torch", "onnx"],
        typer.Option(help="What computes scores; onnx needs the extra onnx, and may be faster."),
    ] = "torch",
    shadow: Annotated[
        str | None, typer.Option(help="A ranker that scores the same requests; differences are logged.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the bearer token that requests need; default: SIDKIT_SERVE_TOKEN."),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name in the header Host that is answered; repeatable. Without a token, default: this machine only."
        ),
    ] = None,
    max_feature_age: Annotated[
        float | None,
        typer.Option(min=0, help="Refuse requests while the features are older than so many seconds."),
    ] = None,
    pictures: Annotated[
        str | None,
        typer.Option(
            help="Column of the items with addresses of pictures, for the page; off: none; default: one named like image_url."
        ),
    ] = None,
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between looks for a promotion or new features.")] = 5.0,
    timeout: Annotated[float, typer.Option(min=0.001, help="Time limit of a request, in seconds.")] = 10.0,
    max_waiting: Annotated[int, typer.Option(min=1, help="Requests at a time per worker.")] = 64,
    max_body: Annotated[int, typer.Option(min=1, help="Longest body, in bytes.")] = 1_000_000,
    static_bytes: Annotated[
        int, typer.Option(min=0, help="Memory per worker for features of items, in bytes; others are read per request.")
    ] = 256 << 20,
    log_sample: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of the requests to log, with their features, into data/serving/log; 0: none."
        ),
    ] = 0.0,
    log_rows: Annotated[int, typer.Option(min=1, help="Items of a request to log, the best-ranked ones.")] = 100,
    log_seconds: Annotated[
        float, typer.Option(min=0.1, help="Seconds of requests in a file of that log, per worker.")
    ] = 60.0,
    log_megabytes: Annotated[
        float, typer.Option(min=0.001, help="Largest size of that log; the oldest files are removed.")
    ] = 1_000.0,
    tick: Annotated[
        float | None,
        typer.Option(
            min=0.05, help="Accept events and items, and update the online store every so many seconds, such as 0.25."
        ),
    ] = None,
) -> None:
    """Serve scores, codes and a page for people over HTTP.

    The page at / shows what a user gets and why. Answers POST /v1/rank, POST /v1/codes, GET /v1/items/ID/similar and the Open
    Inference Protocol under /v2; /openapi.json describes them, /metrics is for Prometheus. A promotion is picked up without a
    restart. With --tick it also takes POST /v1/events and POST /v1/items.
    """
    from sidkit.core.repo import Repo
    from sidkit.serve.options import ServeOptions
    from sidkit.serve.run import serve as serve_until_stopped

    options = ServeOptions(
        repo=str(Repo.open(repo).path),
        ranker=ranker,
        engine=engine,
        shadow=shadow,
        host=host,
        port=port,
        workers=workers,
        token_file=None if token_file is None else str(token_file.absolute()),
        allowed_hosts=tuple(allowed_host or ()),
        poll_seconds=poll,
        max_feature_age_seconds=max_feature_age,
        pictures=pictures,
        max_body_bytes=max_body,
        static_bytes=static_bytes,
        max_waiting=max_waiting,
        timeout_seconds=timeout,
        log_sample=log_sample,
        log_rows=log_rows,
        log_seconds=log_seconds,
        log_megabytes=log_megabytes,
        tick_seconds=tick,
    )
    serve_until_stopped(options, lambda url: say(f"serving on {url}; Ctrl-C stops"))
