"""The scorer inside KServe's model server: ``SIDKIT_REPO=my_repo python kserve_model.py`` answers the Open Inference Protocol.

``sidkit serve`` answers the same protocol at ``/v2/models/ranker/infer``, so a KServe InferenceService may also hold it as a
custom container; this is for model servers that already run KServe's.
"""

from __future__ import annotations

import os
from uuid import uuid4

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

import sidkit
from sidkit.core.clock import from_us


class RankingModel(Model):
    """Scores the items ``item_id`` for one user ``user_id``; ``at_us`` (microseconds UTC) is a time for replays."""

    def load(self) -> bool:
        """Load the serving ranker."""
        self.scorer = sidkit.open(os.environ["SIDKIT_REPO"]).scorer()
        self.ready = True
        return self.ready

    def predict(self, payload: InferRequest, headers: dict[str, str] | None = None) -> InferResponse:
        """Probabilities, in the order of the items."""
        given = {each.name: each.as_numpy().ravel() for each in payload.inputs}
        [user] = {_text(each) for each in given["user_id"]}
        at = from_us(int(given["at_us"][0])) if "at_us" in given else None
        scores = self.scorer.score(user, [_text(each) for each in given["item_id"]], at)
        output = InferOutput("score", [len(scores)], "FP64", scores["score"].tolist())
        return InferResponse(payload.id or uuid4().hex, self.name, [output])


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


if __name__ == "__main__":
    model = RankingModel("ranker")
    model.load()
    ModelServer().start([model])
