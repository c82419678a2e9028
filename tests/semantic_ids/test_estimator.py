"""Quantizers and encoders as scikit-learn estimators: arguments, arrays in, codes out, folders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from helpers.places import ROOT
from semantic_ids import (
    RQVAE,
    BehaviourEncoder,
    Codebook,
    CollaborativeEncoder,
    ContentEncoder,
    ItemVectors,
    OptimizedProductQuantizer,
    ProductQuantizer,
    ResidualKMeans,
    ResidualOPQ,
    load_codebook,
)
from semantic_ids.encoders import ENCODERS, Encoder
from semantic_ids.estimator import Estimator
from semantic_ids.laws import check_encoder, check_quantizer
from semantic_ids.quantizers import QUANTIZER_NAMES, QUANTIZERS, Quantizer
from semantic_ids.quantizers.sizes import LEAST_ITEMS
from sidkit.core.arrays import Floats
from sidkit.core.errors import (
    ArtifactCorruptError,
    ArtifactError,
    ArtifactMissingError,
    ConfigError,
    FitError,
    PluginChangedError,
    PluginError,
    TooFewPairsError,
)

KINDS: dict[str, type[Estimator]] = {**QUANTIZERS, **ENCODERS}
SMALL: dict[str, dict[str, Any]] = {
    "rq_vae": {"epochs": 2, "hidden": (8,), "latent_dim": 4},
    "behaviour": {"dim": 4, "hidden": 8, "steps": 25},
    "collaborative": {"dim": 4},
    "content": {"dim": 4},
    "attribute_graph": {"attributes": "content", "dim": 4, "steps": 10},
}
ROWS = np.random.default_rng(0).normal(size=(320, 8)).astype(np.float32)


def pairs_of(rows: int = len(ROWS)) -> np.ndarray:
    rng = np.random.default_rng(0)
    trigger = rng.integers(0, rows, 1500)
    return np.stack([trigger, (trigger + rng.integers(1, rows, 1500)) % rows], axis=1)


def make(name: str, **arguments: Any) -> Any:
    return KINDS[name](**{**SMALL.get(name, {}), **arguments})


@pytest.fixture(scope="module", params=sorted(KINDS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def fitted(name: str) -> Any:
    return make(name).fit(ROWS, pairs_of())


def test_the_constructor_stores_its_arguments_as_they_came(name: str) -> None:
    sizes = [4, 4]
    number = "floor" if name == "whitened_views" else "ridge"
    arguments = {"sizes": sizes} if name in QUANTIZERS else {number: 0.25}
    estimator = make(name, **arguments)
    for key, value in arguments.items():
        assert estimator.get_params()[key] is value
    assert estimator.get_params(deep=False) == estimator.get_params()
    copy = clone(estimator)
    assert copy is not estimator
    assert copy.get_params() == estimator.get_params()
    assert estimator.set_params(**arguments) is estimator


def test_a_clone_of_a_fitted_one_is_unfitted(name: str, fitted: Any) -> None:
    with pytest.raises(FitError, match=f"this {KINDS[name].__name__} is not fitted"):
        clone(fitted).transform(ROWS)


def test_an_unknown_argument_is_refused_with_the_valid_ones_and_sets_nothing() -> None:
    quantizer = ResidualKMeans()
    with pytest.raises(ConfigError, match=r"ResidualKMeans has no argument 'size'; available: sizes, iterations, seed"):
        quantizer.set_params(seed=3, size=(4,))
    assert quantizer.seed == 0


def test_arguments_set_later_take_effect_at_the_next_fit() -> None:
    quantizer = ResidualKMeans(sizes=(8, 4)).fit(ROWS)
    quantizer.set_params(sizes=(4,))
    assert (quantizer.sizes_, quantizer.transform(ROWS).shape) == ((8, 4), (320, 2))
    assert quantizer.fit(ROWS).sizes_ == (4,)
    vae = RQVAE()
    assert not vae.needs_pairs
    assert vae.set_params(contrast=0.5).needs_pairs


@pytest.mark.parametrize(
    ("estimator", "shown"),
    [
        (ResidualKMeans(), "ResidualKMeans()"),
        (ResidualKMeans(sizes=(32, 32), seed=0), "ResidualKMeans(sizes=(32, 32))"),
        (RQVAE(hidden=[256], epochs=3), "RQVAE(epochs=3)"),
        (ContentEncoder(dim=8), "ContentEncoder(dim=8)"),
    ],
)
def test_it_shows_the_arguments_that_differ_from_the_defaults(estimator: Estimator, shown: str) -> None:
    assert repr(estimator) == shown


def test_transform_is_encode_and_the_same_as_fit_transform(name: str, fitted: Any) -> None:
    expected = fitted.encode(ROWS)
    np.testing.assert_array_equal(fitted.transform(ROWS), expected)
    np.testing.assert_array_equal(fitted.transform(pd.DataFrame(ROWS)), expected)
    np.testing.assert_array_equal(fitted.transform(ROWS.astype(float).tolist()), expected)
    np.testing.assert_array_equal(make(name).fit_transform(ROWS, pairs_of()), expected)
    assert fitted.n_features_in_ == ROWS.shape[1]


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(LEAST_ITEMS, 90),
    dim=st.integers(1, 9),
    distinct=st.integers(1, 90),
    kind=st.sampled_from([ResidualKMeans, ProductQuantizer, OptimizedProductQuantizer, ResidualOPQ]),
)
def test_the_defaults_fit_any_matrix_of_40_rows_or_more(
    rows: int, dim: int, distinct: int, kind: type[Quantizer]
) -> None:
    matrix = np.random.default_rng(dim).normal(size=(rows, dim)).astype(np.float32)[np.arange(rows) % distinct]
    quantizer = kind()
    codes = quantizer.fit_transform(matrix)
    assert codes.shape == (rows, len(quantizer.sizes_))
    assert (codes < np.array(quantizer.sizes_)).all()
    np.testing.assert_array_equal(quantizer.transform(matrix), quantizer.encode(matrix))
    decoded = quantizer.inverse_transform(codes)
    assert (decoded.shape, decoded.dtype) == (matrix.shape, np.float32)
    np.testing.assert_array_equal(quantizer.inverse_transform(codes.tolist()), quantizer.decode(codes))


def test_fewer_than_40_rows_are_refused_with_the_number_needed() -> None:
    for kind in QUANTIZERS.values():
        with pytest.raises(FitError, match="Fit on at least 40 items"):
            kind().fit(ROWS[:39])


def test_the_sizes_are_chosen_from_the_rows_unless_given() -> None:
    rows = np.random.default_rng(0).normal(size=(2000, 384)).astype(np.float32)
    chosen = ResidualKMeans(iterations=2).fit(rows)
    assert (chosen.sizes, chosen.sizes_) == (None, (64, 64, 64))
    assert ResidualOPQ(iterations=2).fit(rows[:, :8]).sizes_ == (64, 16, 8, 8, 8)
    assert ProductQuantizer(iterations=2).fit(rows[:, :6]).sizes_ == (64, 64, 64)
    with pytest.raises(FitError, match="ResidualKMeans is not fitted, and its sizes are chosen at fit"):
        _ = ResidualKMeans().sizes_


def test_a_pipeline_of_encoder_and_quantizer_is_the_two_in_turn() -> None:
    pipeline = make_pipeline(ContentEncoder(dim=4), ResidualKMeans(sizes=(8, 4)))
    codes = pipeline.fit_transform(ROWS)
    vectors = ContentEncoder(dim=4).fit_transform(ROWS)
    np.testing.assert_array_equal(codes, ResidualKMeans(sizes=(8, 4)).fit_transform(vectors))
    np.testing.assert_array_equal(pipeline.transform(ROWS[:7]), codes[:7])
    assert pipeline.set_params(residualkmeans__sizes=(4,)).fit_transform(ROWS).shape == (320, 1)
    assert clone(pipeline).get_params()["contentencoder__dim"] == 4


def test_a_parameter_search_finds_the_sizes_with_the_lowest_error() -> None:
    def score(quantizer: Quantizer, rows: Floats, _: Any = None) -> float:
        return -float(((rows - quantizer.inverse_transform(quantizer.transform(rows))) ** 2).mean())

    search = GridSearchCV(ResidualKMeans(force=True), {"sizes": [(2,), (8, 8)], "seed": [0, 1]}, scoring=score, cv=2)
    assert search.fit(ROWS).best_params_["sizes"] == (8, 8)
    assert search.best_estimator_.sizes_ == (8, 8)


def test_a_pipeline_passes_pairs_to_the_steps_that_learn_from_them() -> None:
    behaviour, content = make("behaviour"), make("content")
    pipeline = make_pipeline(behaviour, ResidualKMeans(sizes=(8, 4)))
    codes = pipeline.fit(ROWS, pairs_of()).transform(ROWS)
    vectors = make("behaviour").fit_transform(ROWS, pairs_of())
    np.testing.assert_array_equal(codes, ResidualKMeans(sizes=(8, 4)).fit_transform(vectors))
    # Others ignore the second argument, which may be the labels of a supervised pipeline.
    labels = np.zeros(len(ROWS))
    np.testing.assert_array_equal(content.fit_transform(ROWS, labels), make("content").fit_transform(ROWS))


def test_item_vectors_and_the_array_of_their_only_modality_give_the_same_vectors() -> None:
    items = ItemVectors({"text": ROWS}, {"text": np.ones(len(ROWS), dtype=bool)})
    encoder = ContentEncoder(dim=4).fit(items)
    np.testing.assert_array_equal(encoder.transform(items), ContentEncoder(dim=4).fit_transform(ROWS))
    np.testing.assert_array_equal(encoder.transform(ROWS), encoder.transform(items))
    both = ItemVectors({"a": ROWS, "b": ROWS}, {"a": np.ones(320, bool), "b": np.ones(320, bool)})
    assert ContentEncoder().fit(both).n_features_in_ == 16
    with pytest.raises(FitError, match=r"expected modalities \('a', 'b'\), as at fit, got \('content',\)"):
        ContentEncoder().fit(both).transform(ROWS)


@pytest.mark.parametrize("kind", [BehaviourEncoder, CollaborativeEncoder])
def test_an_encoder_that_learns_from_pairs_says_how_to_get_them(kind: type[Encoder]) -> None:
    for pairs in (None, np.zeros((0, 2), dtype=int)):
        with pytest.raises(
            TooFewPairsError, match=r"learns from pairs of items, got none; pass an \(n, 2\) array.*mine_pairs"
        ):
            kind().fit(ROWS, pairs)


def test_rq_vae_learns_from_vectors_alone_unless_contrast_is_above_zero() -> None:
    plain = make("rq_vae", sizes=(8, 4)).fit_transform(ROWS)
    np.testing.assert_array_equal(make("rq_vae", sizes=(8, 4)).fit_transform(ROWS, pairs_of()), plain)
    with pytest.raises(TooFewPairsError, match="requires pairs"):
        make("rq_vae", contrast=0.5).fit(ROWS)
    contrast = make("rq_vae", sizes=(8, 4), contrast=5.0).fit_transform(ROWS, pairs_of())
    assert (contrast != plain).any()


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (ROWS[0], r"expected vectors of shape \(items, dim\), got \(8,\)"),
        (np.full((60, 8), np.nan), "60 of 60 vectors .*contain NaN or infinite"),
        (np.full((60, 8), 1e300), "60 of 60 vectors .*contain NaN or infinite"),
        (np.full((60, 8), "a"), "expected vectors of numbers, got <U1"),
        (np.full((60, 8), "a", dtype=object), "expected vectors of numbers, got object"),
        ([[1.0, 2.0], [3.0]], "rows of different lengths"),
    ],
)
def test_input_that_is_no_matrix_of_finite_numbers_is_refused(name: str, fitted: Any, bad: Any, problem: str) -> None:
    for refuse in (lambda rows: make(name).fit(rows, [[0, 1]]), fitted.transform):
        with pytest.raises(FitError, match=problem):
            refuse(bad)


def test_another_width_than_at_fit_is_refused(fitted: Any) -> None:
    with pytest.raises(FitError, match=r"as at fit, got .*9"):
        fitted.transform(np.ones((3, 9), dtype=np.float32))


@pytest.mark.parametrize("sizes", [16, "ab", (4.5, 2)])
def test_sizes_that_are_no_integers_are_refused(sizes: Any) -> None:
    for kind in QUANTIZERS.values():
        with pytest.raises(FitError, match="expected sizes as a sequence of integers"):
            kind(sizes=sizes).fit(ROWS)  # type: ignore[call-arg]


def test_a_loaded_one_gives_the_same_result_bit_for_bit(name: str, fitted: Any, tmp_path: Path) -> None:
    fitted.save(tmp_path / "saved")
    loaded = type(fitted).load(str(tmp_path / "saved"))
    new = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
    np.testing.assert_array_equal(loaded.transform(new), fitted.transform(new))
    assert loaded.n_features_in_ == fitted.n_features_in_
    assert repr(loaded) == repr(fitted)
    if isinstance(fitted, Quantizer):
        assert (loaded.sizes, loaded.sizes_) == (None, fitted.sizes_)
        codes = fitted.transform(new)
        np.testing.assert_array_equal(loaded.inverse_transform(codes), fitted.inverse_transform(codes))
    refitted = clone(loaded).fit(ROWS, pairs_of())
    np.testing.assert_array_equal(refitted.transform(new), fitted.transform(new))
    files = sorted(path.name for path in (tmp_path / "saved").iterdir())
    assert files == ["config.json", "manifest.json", "tensors.safetensors"]
    fitted.save(tmp_path / "saved")  # the same again


def test_the_base_class_loads_any_kind(tmp_path: Path) -> None:
    ResidualKMeans(sizes=[8, np.int64(4)], force=True).fit(ROWS).save(tmp_path)
    loaded = Quantizer.load(tmp_path)
    assert isinstance(loaded, ResidualKMeans)
    assert loaded.get_params()["sizes"] == (8, 4)
    assert loaded.get_params()["force"] is True


def test_what_cannot_be_loaded_says_what_it_is_and_what_loads_it(tmp_path: Path) -> None:
    quantizer, encoder = ResidualKMeans(sizes=(8, 4)).fit(ROWS), ContentEncoder().fit(ROWS)
    quantizer.save(tmp_path / "quantizer")
    encoder.save(tmp_path / "encoder")
    Codebook("book", encoder, quantizer).save(tmp_path / "book")
    with pytest.raises(
        ArtifactError, match=r"expected a saved ProductQuantizer in .*, got ResidualKMeans .*load it with"
    ):
        ProductQuantizer.load(tmp_path / "quantizer")
    with pytest.raises(
        ArtifactError, match=r"expected a saved quantizer .* got kind .encoder.; load it with .*Encoder.load"
    ):
        ResidualKMeans.load(tmp_path / "encoder")
    with pytest.raises(ArtifactError, match=r"got kind .codebook.; load it with semantic_ids.load_codebook"):
        ResidualKMeans.load(tmp_path / "book")
    with pytest.raises(
        ArtifactError, match=r"expected a saved codebook .* got kind .quantizer.; load it with .*Quantizer.load"
    ):
        load_codebook(tmp_path / "quantizer")
    for load in (ResidualKMeans.load, load_codebook):
        with pytest.raises(ArtifactMissingError, match="nowhere does not exist; correct the path"):
            load(tmp_path / "nowhere")
    with pytest.raises(FitError, match="ProductQuantizer is not fitted"):
        ProductQuantizer().save(tmp_path / "unfitted")
    with pytest.raises(ArtifactError, match="never overwritten: save to a new folder"):
        ResidualKMeans(sizes=(4,)).fit(ROWS).save(tmp_path / "quantizer")


@pytest.mark.parametrize("file", ["config.json", "tensors.safetensors", "manifest.json"])
def test_a_changed_file_is_refused(tmp_path: Path, file: str) -> None:
    ResidualKMeans(sizes=(8, 4)).fit(ROWS).save(tmp_path / "saved")
    path = tmp_path / "saved" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ArtifactCorruptError):
        ResidualKMeans.load(tmp_path / "saved")


OWN = """
from semantic_ids.encoders.base import Encoder
from semantic_ids.quantizers.residual_kmeans import ResidualKMeans
import numpy as np


class Mine(ResidualKMeans):
    pass


class Scaled(Encoder):
    def __init__(self, factor=2.0):
        self.factor = factor

    def fit(self, items, pairs=None):
        self.modalities_ = tuple(items.matrices)
        self.width_ = items.width
        return self

    def encode(self, items):
        return np.hstack([self.factor * items.matrices[name] for name in self.modalities_]).astype(np.float32)

    @property
    def output_dim(self):
        return self.width_

    def tensors(self):
        return {"width": np.array([self.width_])}

    def load_tensors(self, tensors):
        self.modalities_, self.width_ = ("content",), int(tensors["width"][0])
        return self
"""


def test_a_plug_in_from_a_file_is_saved_with_its_source_and_loaded_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    mine: Any = QUANTIZER_NAMES.find(str(tmp_path / "own.py:Mine"))
    mine(sizes=(8, 4)).fit(ROWS).save(tmp_path / "saved")
    assert mine.load(tmp_path / "saved").sizes_ == (8, 4)
    (tmp_path / "own.py").unlink()
    script = "import sys; from semantic_ids.quantizers import Quantizer; print(repr(Quantizer.load(sys.argv[1])))"
    command = [sys.executable, "-c", script, str(tmp_path / "saved")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "Mine(sizes=(8, 4))"
    (source,) = (tmp_path / "saved" / "plugins").iterdir()
    source.write_text(f"raise SystemExit\n{OWN}")
    with pytest.raises(PluginChangedError, match="not executed"):
        Quantizer.load(tmp_path / "saved")


def test_classes_of_ones_own_take_arrays_and_work_in_pipelines(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(OWN, names)
    scaled = names["Scaled"]
    assert scaled().fit(ROWS).n_features_in_ == 8
    np.testing.assert_array_equal(scaled().fit_transform(ROWS), 2 * ROWS)
    pipeline = make_pipeline(scaled(factor=3.0), names["Mine"](sizes=(8, 4)))
    assert pipeline.fit_transform(ROWS).shape == (320, 2)
    assert pipeline.fit(ROWS).transform(ROWS).shape == (320, 2)
    scaled(factor=3.0).fit(ROWS).save(tmp_path / "scaled")
    np.testing.assert_array_equal(scaled.load(tmp_path / "scaled").transform(ROWS), 3 * ROWS)
    with pytest.raises(ArtifactError, match=r"expected a saved Encoder in .*, got Scaled .*load it with Scaled.load"):
        Encoder.load(tmp_path / "scaled")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_contract_checks_pass_with_the_default_sizes(kind: str) -> None:
    check: Any = check_quantizer if kind in QUANTIZERS else check_encoder
    check(KINDS[kind], **{**SMALL.get(kind, {}), **({"attributes": "text"} if kind == "attribute_graph" else {})})


def test_the_contract_checks_name_what_a_class_breaks() -> None:
    class Forgets(ResidualKMeans):
        def load_tensors(self, tensors: Any) -> Forgets:
            super().load_tensors(tensors)
            self._sizes = None
            return self

    class Copies(ResidualKMeans):
        def __init__(self, sizes: Any) -> None:
            super().__init__(list(sizes))

    with pytest.raises(PluginError, match=r"Forgets violates its contract: .*sizes_"):
        check_quantizer(Forgets, force=True)
    with pytest.raises(PluginError, match=r"Copies .* must store the argument 'sizes' unchanged"):
        check_quantizer(Copies, sizes=(4, 4))


class FixedSizes(Quantizer):
    """A quantizer in the form of earlier releases: it reads ``sizes`` and sets no ``sizes_``."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes

    def fit(self, vectors: Any, pairs: Any = None) -> FixedSizes:
        self.mean_ = vectors.mean(axis=0)
        return self

    def encode(self, vectors: Any, beam: int = 1) -> Any:
        return np.zeros((len(vectors), len(self.sizes)), dtype=np.int32)

    def decode(self, codes: Any) -> Floats:
        return np.repeat(self.mean_[None], len(codes), axis=0)

    def tensors(self) -> dict[str, Any]:
        return {"mean": self.mean_}

    def load_tensors(self, tensors: dict[str, Any]) -> FixedSizes:
        self.mean_ = tensors["mean"]
        return self


def test_a_quantizer_that_sets_no_sizes_has_those_of_its_constructor() -> None:
    quantizer = FixedSizes((4, 2)).fit(ROWS.tolist())
    assert (quantizer.sizes_, quantizer.residual_levels) == ((4, 2), 2)
    assert quantizer.config() == {"sizes": [4, 2]}


def test_a_codebook_records_the_sizes_that_were_chosen(tmp_path: Path) -> None:
    encoder = ContentEncoder(dim=4).fit(ROWS)
    for kind in (ResidualKMeans, ResidualOPQ, ProductQuantizer):
        quantizer = kind().fit(encoder.transform(ROWS))
        book = Codebook(kind.name, encoder, quantizer)
        book.save(tmp_path / kind.name)
        recorded = json.loads((tmp_path / kind.name / "config.json").read_text())["quantizer"]["arguments"]["sizes"]
        assert recorded == list(quantizer.sizes_[: len(recorded)])
        loaded = load_codebook(tmp_path / kind.name)
        assert loaded.sizes == quantizer.sizes_
        np.testing.assert_array_equal(loaded.encode(ROWS), book.assign(ROWS).codes)
    assert repr(load_codebook(tmp_path / "pq")) == (
        "Codebook('pq', encoder=ContentEncoder(dim=4), quantizer=ProductQuantizer(sizes=[16, 16, 16, 16]), beam=1)"
    )
