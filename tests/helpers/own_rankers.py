"""Rankers of a user's own, in one file that imports installed packages only, as they are registered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ranking import ExternalRanker, TorchInputs


class Linear(ExternalRanker):
    """A logistic regression of scikit-learn on the numeric features."""

    def __init__(self, weights: NDArray[np.float64], bias: float) -> None:
        self.weights, self.bias = weights, bias

    @classmethod
    def fit(cls, rows: Any) -> Self:
        from sklearn.linear_model import LogisticRegression

        numbers = np.nan_to_num(rows.numeric.to_numpy())
        scale = numbers.std(axis=0) + 1
        model = LogisticRegression(max_iter=300).fit(numbers / scale, rows.label)
        return cls(model.coef_[0] / scale, float(model.intercept_[0]))

    def save(self, folder: Path) -> None:
        np.savez(folder / "model.npz", weights=self.weights, bias=self.bias)

    @classmethod
    def load(cls, folder: Path) -> Self:
        with np.load(folder / "model.npz") as saved:
            return cls(saved["weights"], float(saved["bias"]))

    def score(self, rows: Any) -> Any:
        return 1 / (1 + np.exp(-np.nan_to_num(rows.numeric.to_numpy()) @ self.weights - self.bias))


class Torch(ExternalRanker):
    """A linear model of torch on scaled features and an embedding of the first code."""

    def __init__(self, inputs: TorchInputs, size: int, features: int) -> None:
        import torch

        torch.manual_seed(0)
        self.inputs, self.shape = inputs, (size, features)
        self.table, self.head = torch.nn.Embedding(size + 1, 1), torch.nn.Linear(features, 1)

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        self.inputs.save(folder / "inputs.parquet")
        (folder / "shape.json").write_text(json.dumps(self.shape))
        save_file({"table": self.table.weight, **self.head.state_dict()}, folder / "weights.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Self:
        from safetensors.torch import load_file

        made = cls(TorchInputs.load(folder / "inputs.parquet"), *json.loads((folder / "shape.json").read_text()))
        tensors = load_file(folder / "weights.safetensors")
        made.table.load_state_dict({"weight": tensors.pop("table")})
        made.head.load_state_dict(tensors)
        return made

    def score(self, rows: Any) -> Any:
        import torch

        with torch.no_grad():
            batches = rows.to_torch(like=self.inputs).loader(batch_size=64)
            logits = [self.head(each.numeric) + self.table(each.candidate_codes[:, 0] + 1) for each in batches]
            return torch.sigmoid(torch.cat(logits)).squeeze(1).numpy()


class Forgetful(Linear):
    """Loads something else than it saved."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        made = super().load(folder)
        made.bias += 1
        return made


class Unsaved(Linear):
    """Saves nothing."""

    def save(self, folder: Path) -> None:
        pass


class Broken(Linear):
    """Cannot be loaded."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        raise KeyError("weights")


class Logits(Linear):
    """Returns logits."""

    def score(self, rows: Any) -> Any:
        return np.full(len(rows), 3.0)


class TwoColumns(Linear):
    """Returns both classes."""

    def score(self, rows: Any) -> Any:
        return np.full((len(rows), 2), 0.5)


class Ranks(Linear):
    """Scores a row by its rank among the others."""

    def score(self, rows: Any) -> Any:
        return np.argsort(np.argsort(super().score(rows))) / len(rows)


class Outer:
    """A class that holds another one."""

    class Inner(Linear):
        """Not at the top level of its file."""
