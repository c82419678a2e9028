"""The Open Inference Protocol (version 2, REST): a model with inputs ``user_id`` and ``item_id`` and output ``score``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sidkit import __version__
from sidkit.serve.bodies import (
    MOST_ITEMS,
    InferAnswer,
    InferRequest,
    InputTensor,
    ModelMetadata,
    OutputTensor,
    ServerMetadata,
    TensorMetadata,
)
from sidkit.serve.model import ServingModel
from sidkit.serve.problems import RequestError
from sidkit.serve.ranking import Answers, Scored, moment

ALIAS = "ranker"
"""A name of the model that stays the same when another ranker is promoted."""
MOST_USERS = 64
"""The most distinct users of one request."""
_INTEGERS = frozenset({"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"})
Batch = tuple[Scored, dict[str, Any] | None]
"""The items of one user, scored, and their context."""
_TYPES: dict[str, tuple[type, ...]] = {
    "BOOL": (bool,),
    "BYTES": (str,),
    "FP16": (int, float),
    "FP32": (int, float),
    "FP64": (int, float),
    **dict.fromkeys(_INTEGERS, (int,)),
}
_OUTPUTS = {"score": "FP64", "known": "BOOL"}


def server_metadata() -> ServerMetadata:
    """The server."""
    return ServerMetadata("sidkit", __version__, [])


def model_metadata(model: ServingModel, name: str) -> ModelMetadata:
    """The model by its ranker's name, or by :data:`ALIAS`."""
    inputs = [TensorMetadata("user_id", "BYTES", [-1]), TensorMetadata("item_id", "BYTES", [-1])]
    inputs.append(TensorMetadata("at_us", "INT64", [1]))
    outputs = [TensorMetadata(output, kind, [-1]) for output, kind in _OUTPUTS.items()]
    return ModelMetadata(name, [model.key.ranker_hash], "sidkit", inputs, outputs)


def check_model(model: ServingModel, name: str, version: str | None) -> None:
    """Refuse a model or version that is not loaded.

    Raises
    ------
    RequestError
        With status 404.
    """
    if name not in {ALIAS, model.key.ranker}:
        raise RequestError(
            404,
            f"the model {ALIAS} or {model.key.ranker}",
            repr(name[:100]),
            "use one of them, or promote the other ranker",
        )
    if version is not None and version != model.key.ranker_hash:
        raise RequestError(
            404, f"version {model.key.ranker_hash}", repr(version[:100]), "leave the version out, or use that one"
        )


def infer(
    answers: Answers, model: ServingModel, name: str, body: InferRequest, batches: list[Batch] | None = None
) -> InferAnswer:
    """Score pairs of users and items.

    ``user_id`` has one value for all items, or one per item. ``at_us`` is the time of the request, microseconds UTC (default:
    now). Inputs of other names are the context, with one value, or one per item. What each user was scored with, with its
    context, is appended to ``batches``.

    Raises
    ------
    RequestError
        When an input is missing, or has another type or shape.
    """
    inputs = {tensor.name: _values(tensor) for tensor in body.inputs}
    if len(inputs) != len(body.inputs):
        raise RequestError(422, "inputs with distinct names", "a name twice", "give each input once")
    kinds = {tensor.name: tensor.datatype for tensor in body.inputs}
    items = _texts(inputs, kinds, "item_id")
    users = _texts(inputs, kinds, "user_id")
    if not 1 <= len(items) <= MOST_ITEMS:
        raise RequestError(422, f"1 to {MOST_ITEMS:,} values of item_id", str(len(items)), "split the request")
    if len(users) not in {1, len(items)}:
        raise RequestError(
            422, f"one value of user_id, or {len(items)}, one per item", str(len(users)), "correct its shape"
        )
    users = users * len(items) if len(users) == 1 else users
    at_us = _moment(inputs, kinds, model)
    context = {key: values for key, values in inputs.items() if key not in {"user_id", "item_id", "at_us"}}
    for key, values in context.items():
        if len(values) not in {1, len(items)}:
            raise RequestError(
                422, f"one value of {key}, or {len(items)}, one per item", str(len(values)), "correct its shape"
            )
    wanted = [each.name for each in body.outputs] if body.outputs else list(_OUTPUTS)
    if unknown := [each for each in wanted if each not in _OUTPUTS]:
        raise RequestError(422, f"outputs among {', '.join(_OUTPUTS)}", repr(unknown[0][:100]), "ask for those")
    scores, known = _scored(answers, model, users, items, at_us, context, [] if batches is None else batches)
    data = {"score": scores.tolist(), "known": known.tolist()}
    outputs = [OutputTensor(each, [len(items)], _OUTPUTS[each], data[each]) for each in wanted]
    return InferAnswer(name, model.key.ranker_hash, outputs, body.id, {"codebook": model.key.codebook})


def _scored(
    answers: Answers,
    model: ServingModel,
    users: list[str],
    items: list[str],
    at_us: int,
    context: dict[str, list[Any]],
    batches: list[Batch],
) -> tuple[Any, Any]:
    """Scores and whether items are known, in the order of the request; one batch per user."""
    places: dict[str, list[int]] = {}
    for at, user in enumerate(users):
        places.setdefault(user, []).append(at)
    if len(places) > MOST_USERS:
        raise RequestError(422, f"at most {MOST_USERS} users", str(len(places)), "split the request")
    scores, known = np.zeros(len(items)), np.zeros(len(items), dtype=np.bool_)
    for user, rows in places.items():
        own = {key: values[0] if len(values) == 1 else [values[row] for row in rows] for key, values in context.items()}
        scored = answers.scored(model, user, [items[row] for row in rows], at_us, own or None)
        scores[rows], known[rows] = scored.scores.values, scored.scores.known
        batches.append((scored, own or None))
    return scores, known


def _values(tensor: InputTensor) -> list[Any]:
    allowed = _TYPES.get(tensor.datatype)
    if allowed is None:
        raise RequestError(
            422,
            f"a datatype among {', '.join(_TYPES)}",
            repr(tensor.datatype[:100]),
            f"correct the input {tensor.name[:100]}",
        )
    values = _flat(tensor.data)
    count = int(np.prod(tensor.shape, dtype=object))
    if len(values) != count:
        raise RequestError(
            422,
            f"{count} values of {tensor.name[:100]}, of shape {tensor.shape}",
            str(len(values)),
            "correct shape or data",
        )
    for value in values:
        if not isinstance(value, allowed) or (isinstance(value, bool) and tensor.datatype != "BOOL"):
            raise RequestError(
                422, f"values of {tensor.name[:100]} of type {tensor.datatype}", repr(value)[:100], "correct the data"
            )
    return values


def _flat(values: Sequence[Any]) -> list[Any]:
    return [inner for value in values for inner in (value if isinstance(value, list) else [value])]


def _texts(inputs: dict[str, list[Any]], kinds: dict[str, str], name: str) -> list[str]:
    if name not in inputs:
        raise RequestError(422, f"an input {name} of type BYTES", ", ".join(inputs)[:200], "add it")
    if kinds[name] != "BYTES":
        raise RequestError(422, f"{name} of type BYTES", kinds[name], "send the ids as texts")
    return inputs[name]


def _moment(inputs: dict[str, list[Any]], kinds: dict[str, str], model: ServingModel) -> int:
    if "at_us" not in inputs:
        return moment(None, model)
    if kinds["at_us"] != "INT64" or len(inputs["at_us"]) != 1 or abs(inputs["at_us"][0]) >= 2**62:
        raise RequestError(
            422,
            "at_us as one INT64",
            f"{len(inputs['at_us'])} of {kinds['at_us']}",
            "send microseconds since 1970, UTC",
        )
    return int(inputs["at_us"][0])
