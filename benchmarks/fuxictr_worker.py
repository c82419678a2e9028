"""FuxiCTR's side of ``fuxictr_din.py`` and ``fuxictr_auc.py``: runs in an environment with FuxiCTR and without sidkit.

Reads one JSON command per line on stdin and answers with one JSON line on stdout. ``{"folder": ...}`` names an exported data
set; see ``export`` in ``fuxictr_peer.py``.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.torch_utils import seed_everything
from model_zoo.LongCTR.DCNv2.DCNv2 import DCNv2
from model_zoo.LongCTR.DIN.DIN import DIN
from model_zoo.LongCTR.FinalMLP.FinalMLP import FinalMLP
from model_zoo.LongCTR.longctr_dataloader import LongCTRDataLoader

LENGTH = 50
NEVER = 10**12
FROM = {"user_id": "user", "context": "numeric", "cosines": "cosines"}
"""Feature of FuxiCTR's -> exported array."""


class OncePerBatch(torch.nn.Module):
    """FuxiCTR's projection of content, computed once per distinct item version of a batch: histories repeat most of them.

    Takes the numbers of the versions instead of their vectors (as float32, to which FuxiCTR converts its inputs: exact below
    2**24). The results are those of the projection.
    """

    def __init__(self, projection: torch.nn.Module, content: torch.Tensor) -> None:
        super().__init__()
        self.projection, self.content = projection, content

    def forward(self, versions: torch.Tensor) -> torch.Tensor:
        distinct, place = versions.long().unique(return_inverse=True)
        projected: torch.Tensor = self.projection(self.content[distinct])
        return projected.index_select(0, place)


class Ready:
    """Batches cut from tensors in memory: the cost of FuxiCTR's model with a negligible loader."""

    def __init__(
        self,
        arrays: dict[str, Any],
        size: int,
        context: list[str],
        shuffle: int | None,
        order: Any = None,
        content: bool = False,
    ) -> None:
        self.arrays, self.size, self.context, self.order, self.content = arrays, size, context, order, content
        self.generator = torch.Generator().manual_seed(shuffle) if shuffle is not None else None

    def __len__(self) -> int:
        return (self.rows + self.size - 1) // self.size

    @property
    def rows(self) -> int:
        return len(self.arrays["label"]) if self.order is None else len(self.order)

    def __iter__(self) -> Iterator[Any]:
        order = torch.arange(len(self.arrays["label"])) if self.order is None else self.order
        if self.generator is not None:
            order = order[torch.randperm(len(order), generator=self.generator)]
        for start in range(0, len(order), self.size):
            rows = order[start : start + self.size]
            lists = self.arrays["lists"][self.arrays["history"][rows]]
            from_column = LENGTH - max(1, int((lists > 0).sum(1).max()))  # as its own loader does
            lists = lists[:, from_column:]
            items = torch.cat([lists, self.arrays["item"][rows][:, None]], dim=1)
            batch = {"label": self.arrays["label"][rows]}
            batch |= {name: self.arrays[FROM[name]][rows] for name in self.context}
            of_items = {"item_id": items.flatten()}
            if self.content:
                past = self.arrays["versions"][self.arrays["history"][rows]][:, from_column:]
                versions = torch.cat([past, self.arrays["candidate"][rows][:, None]], dim=1)
                of_items["content"] = versions.flatten()
            yield batch, of_items, (lists > 0).float()


def load(folder: Path, part: str) -> dict[str, Any]:
    arrays = {path.stem: torch.from_numpy(np.load(path)) for path in (folder / part).glob("*.npy")}
    shared = ("lists", "versions")
    return arrays | {name: torch.from_numpy(np.load(folder / f"{name}.npy")) for name in shared}


def by_length(arrays: dict[str, Any]) -> Any:
    """Row indices by length of the history: a batch is as long as its longest, and an AUC does not depend on the order."""
    lengths = (arrays["lists"] > 0).sum(1)
    return torch.argsort(lengths[arrays["history"]], stable=True)


def spread(total: int, count: int) -> Any:
    """Evenly spaced row indices, the same as in ``fuxictr_din.py``."""
    return torch.from_numpy(np.linspace(0, total - 1, count).astype(np.int64))


def make(told: dict[str, Any]) -> Any:
    folder = Path(told["folder"])
    facts = json.loads((folder / "facts.json").read_text())
    seed_everything(told.get("seed", 0))
    features = FeatureMap("frame", str(folder))
    features.labels = ["label"]
    features.default_emb_dim = told["dim"]
    described: list[tuple[str, dict[str, Any]]] = []
    wide, cosines = facts["numeric"], facts["cosines"]
    possible = {
        "user_id": {"source": "user", "type": "categorical", "vocab_size": facts["users"]},
        "context": {"source": "context", "type": "embedding", "pretrain_dim": wide, "embedding_dim": wide},
        "cosines": {"source": "context", "type": "embedding", "pretrain_dim": cosines, "embedding_dim": cosines},
    }
    described += [(name, possible[name]) for name in told.get("context", [])]
    described.append(
        ("item_id", {"source": "item", "type": "categorical", "vocab_size": facts["items"], "padding_idx": 0})
    )
    if told.get("content"):
        projected = {"pretrain_dim": facts["content"], "embedding_dim": told["dim"]}
        described.append(("content", {"source": "item", "type": "embedding", **projected}))
    # What its own loader reads of a row, besides what the model embeds.
    described += [(name, {"source": "meta", "type": "meta"}) for name in ("user_index", "item_index", "seq_len")]
    features.features = OrderedDict(described)
    features.num_fields = features.get_num_fields()
    kind, own = _model(told)
    model = kind(
        features, model_id=f"peer{os.getpid()}", gpu=told.get("gpu", -1), embedding_dim=told["dim"],
        learning_rate=told.get("learning_rate", 1e-3), embedding_regularizer=told.get("embedding_regularizer"),
        optimizer="adam", loss="binary_cross_entropy", metrics=["AUC"], monitor="AUC", verbose=0, model_root=told["root"],
        early_stop_patience=2, **own,
    )  # fmt: skip
    if told.get("content"):
        encoders = model.embedding_layer.embedding_layer.feature_encoders
        encoders["content"] = OncePerBatch(encoders["content"], torch.from_numpy(np.load(folder / "content.npy")))
    return model


def _model(told: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The class of FuxiCTR's, and its arguments that other models lack."""
    hidden, drop, norm = told["hidden"], told.get("dropout", 0.0), told.get("batch_norm", False)
    if told.get("model", "DIN") == "DIN":
        attention = told.get("attention", [64])
        own = {"dnn_hidden_units": hidden, "attention_hidden_units": attention, "net_dropout": drop, "batch_norm": norm}
        return DIN, own
    if told["model"] == "DCNv2":
        own = {"parallel_dnn_hidden_units": hidden, "net_dropout": drop, "batch_norm": norm}
        return DCNv2, {**own, "num_cross_layers": told["cross_layers"]}
    towers = {
        f"mlp{tower}_{name}": value
        for tower in (1, 2)
        for name, value in (("hidden_units", hidden), ("dropout", drop), ("batch_norm", norm))
    }
    return FinalMLP, {**towers, "use_fs": False, "num_heads": told["heads"]}


def speed(told: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """Rows per second of one pass over some training rows; the model is reused between calls."""
    torch.set_num_threads(told["threads"])
    folder = Path(told["folder"])
    key = json.dumps([told["dim"], told["hidden"], told.get("gpu", -1), told["folder"]])
    if key not in kept:
        kept[key] = make(told)
        kept[told["folder"]] = load(folder, "train")
    model, arrays = kept[key], kept[told["folder"]]
    model._eval_steps, model._max_gradient_norm, model._total_steps, model._stop_training = NEVER, 10.0, 0, False
    rows = told["rows"]
    if told["loader"] == "own":
        root = Path(told["root"])
        batches: Any = LongCTRDataLoader(
            model.feature_map, str(root / f"own{rows}.parquet"), str(root / "users.parquet"), str(root / "items.parquet"),
            batch_size=told["batch"], shuffle=True, num_workers=0, max_len=LENGTH,
        )  # fmt: skip
    else:
        batches = Ready(arrays, told["batch"], [], 0, spread(len(arrays["label"]), rows))
    began, worked = time.perf_counter(), time.process_time()
    model.train_epoch(batches)
    if told.get("gpu", -1) >= 0:
        torch.cuda.synchronize()
    return {"wall": rows / (time.perf_counter() - began), "cpu": rows / (time.process_time() - worked)}


def own_files(told: dict[str, Any]) -> dict[str, Any]:
    """Write the input of FuxiCTR's own history loader: rows, users with all their items, items."""
    import pandas as pd

    folder, root = Path(told["folder"]), Path(told["root"])
    arrays, rows = load(folder, "train"), told["rows"]
    chosen = spread(len(arrays["label"]), rows)
    lists = arrays["lists"].numpy()
    filled = [row[row > 0] for row in lists]  # oldest first, as in the arrays
    pd.DataFrame({"full_item_seq": [row.tolist() for row in filled]}).to_parquet(root / "users.parquet")
    count = json.loads((folder / "facts.json").read_text())["items"]
    pd.DataFrame({"item_index": np.arange(count), "item_id": np.arange(count)}).to_parquet(root / "items.parquet")
    history = arrays["history"][chosen].numpy()
    columns = {
        "user_index": history, "item_index": arrays["item"][chosen].numpy(),
        "seq_len": np.array([len(filled[number]) for number in history]), "label": arrays["label"][chosen].numpy().astype(int),
    }  # fmt: skip
    pd.DataFrame(columns).to_parquet(root / f"own{rows}.parquet")
    return {"rows": rows}


def fit(told: dict[str, Any]) -> dict[str, Any]:
    """Train with early stopping on validation, and score the parts of ``scored``: by default validation and test."""
    torch.set_num_threads(told["threads"])
    folder, scored = Path(told["folder"]), told.get("scored", ("validation", "test"))
    parts = {name: load(folder, name) for name in {"train", "validation", *scored}}
    model, context, content = make(told), told.get("context", []), told.get("content", False)
    began, worked = time.perf_counter(), time.process_time()
    model.fit(
        Ready(parts["train"], told["batch"], context, told["seed"], content=content), epochs=told["epochs"],
        validation_data=Ready(parts["validation"], 4096, context, None, by_length(parts["validation"]), content),
        max_gradient_norm=10.0,
    )  # fmt: skip
    out = Path(told["out"])
    for name in scored:
        scores = model.predict(Ready(parts[name], 4096, context, None, content=content))
        np.save(out.with_suffix(f".{name}.npy"), scores)
    weights = sum(parameter.numel() for parameter in model.parameters())
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - worked,
        "epochs": model._epoch_index + 1,
        "best_validation_auc": float(model._best_metric),
        "parameters": weights,
    }


def main() -> None:
    logging.disable(logging.INFO)
    answers = sys.stdout
    sys.stdout = sys.stderr  # FuxiCTR prints
    kept: dict[str, Any] = {}
    for line in sys.stdin:
        told = json.loads(line)
        if told["do"] == "versions":
            import fuxictr

            found: dict[str, Any] = {"torch": torch.__version__, "fuxictr": fuxictr.__version__, "cuda": torch.cuda.is_available()}  # fmt: skip  # noqa: E501
        else:
            found = {"speed": lambda told: speed(told, kept), "fit": fit, "own_files": own_files}[told["do"]](told)
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
