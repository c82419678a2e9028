"""The examples in the docstrings of the public names, run as written."""

from __future__ import annotations

import doctest
import inspect

import pytest

import semantic_ids

PUBLIC = sorted(set(semantic_ids.__all__) - {"Catalog", "ItemPairs"})
"""The names that are used without a repository."""


def examples_of(text: str, name: str) -> doctest.DocTest:
    return doctest.DocTestParser().get_doctest(inspect.cleandoc(text), {}, name, None, None)


@pytest.mark.parametrize("name", [*PUBLIC, "semantic_ids"])
def test_the_examples_print_what_they_say(name: str) -> None:
    shown = semantic_ids if name == "semantic_ids" else getattr(semantic_ids, name)
    parsed = examples_of(shown.__doc__ or "", name)
    assert parsed.examples, f"{name} has no example"
    printed: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(parsed, out=printed.append)
    assert result.failed == 0, "".join(printed)


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - {"ItemVectors", "Codebook", "load_codebook", "prefix_keys"}))
def test_estimators_document_arguments_attributes_and_sources(name: str) -> None:
    kind = getattr(semantic_ids, name)
    text = inspect.cleandoc(kind.__doc__ or "")
    for section in ("Parameters", "Attributes", "References", "Examples"):
        assert f"\n{section}\n{'-' * len(section)}\n" in text
    arguments = text.split("\nParameters\n")[1].split("\nAttributes\n")[0]
    assert all(argument in arguments for argument in inspect.signature(kind).parameters)
