"""The lower bound of ``benchmarks/serving.py``: bare reads of the rows of a request, and a forward pass."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa


def floor(repo: Path, bodies: list[dict[str, Any]], rounds: int) -> dict[str, list[float]]:
    """Processor seconds in this process, of the same requests in turn.

    ``read``: the bare packed reads of all views of candidates and user; ``read_all``: with the counts per prefix of codes;
    ``forward``: one forward pass of a batch in which every row has a copy of the history, as in training; ``forward_shared``:
    of the scorer's batch, whose rows share it; ``scorer``, and ``scorer_before``: without arrays of items.
    """
    import torch

    from ranking.serving.scorer import Scorer
    from sidkit.core.clock import present_us
    from sidkit.core.repo import Repo

    torch.set_num_threads(1)
    scorer, before = Scorer(Repo.open(repo)), Scorer(Repo.open(repo))
    before._features._fast = None  # what any other online store has
    scorer.preload(sorted({item for body in bodies for item in body["item_ids"]}), present_us())
    reads = BareReads(scorer)
    names = ("read", "read_all", "forward", "forward_shared", "scorer", "scorer_before")
    measured: dict[str, list[float]] = {name: [] for name in names}
    warm = min(len(bodies), 100)
    for number in range(warm + rounds):
        body = bodies[number % warm]

        def timed(name: str, work: Any, *, counts: bool = number >= warm) -> Any:
            began = time.thread_time()
            result = work()
            if counts:
                measured[name].append(time.thread_time() - began)
            return result

        def scored(by: Any, asked: dict[str, Any] = body) -> Any:
            request = by.read(asked["user_id"], asked["item_ids"], present_us())
            by.score_request(request)
            return request

        def forward(batch: Any) -> None:
            with torch.inference_mode():
                scorer.ranker.model(batch)

        for name in ("read", "read_all")[:: 1 if number % 2 else -1]:  # the second of them has warmer caches
            timed(name, lambda asked=body, every=name == "read_all": reads.read(asked, codes=every))
        request = timed("scorer", lambda: scored(scorer))
        timed("scorer_before", lambda: scored(before))
        batch = next(iter(scorer.ranker.batches(request.data).batches(len(body["item_ids"]))))
        copied = {each: getattr(batch, each).contiguous() for each in ("history", "mask", "gap_bucket")}
        timed("forward_shared", lambda shared=batch: forward(shared))
        plain = replace(batch, **copied)
        timed("forward", lambda copy=plain: forward(copy))
    return measured


class BareReads:
    """The rows of a request as bytes, from the packed store."""

    def __init__(self, scorer: Any) -> None:
        from sidkit.stores.online.sqlite_store import PackedSqliteOnlineStore
        from sidkit.stores.online.store import view_id

        store = scorer.store
        online = store._get_provider().online_store
        assert isinstance(online, PackedSqliteOnlineStore)
        self._file = online.file(store.config)
        self._sides: dict[str, list[tuple[str, int | None]]] = {}
        stored = {view.name: (view_id(store.config, view), None) for view in store.list_feature_views()}
        for side in ("item", "user"):
            service = store.get_feature_service(f"{scorer.record.service}_{side}")
            names = [projection.name for projection in service.feature_view_projections]
            self._sides[side] = [stored[name] for name in names if name in stored]
        codebook = scorer.record.codebook
        self._codes = [
            stored[name] for name in (f"code_stats_{codebook}", f"user_code_stats_{codebook}") if name in stored
        ]
        self._scorer, self._codebook = scorer, codebook

    def read(self, body: dict[str, Any], *, codes: bool) -> None:
        from sidkit.core.code_stats import prefix_keys
        from sidkit.stores.online.arrow import entity_keys, text_keys

        with self._file.reading() as reading:
            for side, ids in (("item", body["item_ids"]), ("user", [body["user_id"]])):
                keys = text_keys(f"{side}_id", ids)
                assert keys is not None
                reading.rows_of(self._sides[side], keys)
            if codes and self._codes:
                of_all, of_user = self._keys(body, prefix_keys, entity_keys)
                reading.rows_of(self._codes[:1], of_all)
                reading.rows_of(self._codes[1:], of_user)

    def _keys(self, body: dict[str, Any], prefix_keys: Any, entity_keys: Any) -> tuple[Any, Any]:
        """Keys of the prefixes of a body's candidates; made once per body, since they are not part of the reads."""
        if "keys" not in body:
            request = self._scorer.read(body["user_id"], body["item_ids"], time.time_ns() // 1000)
            held = request.data.items.codes[1:]
            held = held[(held >= 0).all(axis=1)]
            depths = self._scorer._features._fast.sides.codes.counts.depths
            texts = sorted({key for depth in depths for key in prefix_keys(self._codebook, held, depth)})
            prefixes, users = pa.array(texts), pa.array([body["user_id"]] * len(texts))
            kinds = {"sid_prefix": "STRING", "user_id": "STRING"}
            body["keys"] = (
                entity_keys({"sid_prefix": prefixes}, kinds),
                entity_keys({"sid_prefix": prefixes, "user_id": users}, kinds),
            )
        return body["keys"]
