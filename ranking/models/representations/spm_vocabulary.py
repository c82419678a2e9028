"""A SentencePiece vocabulary of codes: learned by the library, applied as batched tensor operations."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ranking.data.plain import is_plain
from sidkit.core.arrays import Ints
from sidkit.core.errors import ConfigError

# Each code of each level is mapped to a character of the private-use planes 15 and 16 of Unicode.
_PLANES, _PLANE = (0xF0000, 0x100000), 0xFFFE


def learn_pieces(codes: Ints, counts: Ints, sizes: Sequence[int], pieces: int) -> bytes:
    """Learn a vocabulary by byte-pair encoding: repeatedly merge the most frequent pair of neighbouring pieces.

    Frequently shown codes get a single piece; the others are spelled by shorter ones (arXiv 2306.08121). (SentencePiece's
    unigram model never forms a piece of a whole item.) One thread and no sampling, so the result is deterministic.

    Parameters
    ----------
    codes : int64 [items, levels]
        Distinct codes, none missing.
    counts : int64 [items]
        Exposures of each.
    sizes : sequence of int
        Codes per level.
    pieces : int
        Maximum vocabulary size; all single codes that occur are always included.

    Returns
    -------
    bytes
        A SentencePiece model file.

    Raises
    ------
    ConfigError
        When the levels have more codes than there are private-use characters.
    """
    character = _characters(sizes)
    numbered = codes + _starts(sizes)
    texts = ("".join(character[each] for each in row) for row in numbered.tolist())
    model = io.BytesIO()
    _library().SentencePieceTrainer.train(
        sentence_iterator=(f"{text}\t{count}" for text, count in zip(texts, counts.tolist(), strict=True)),
        input_format="tsv",
        model_writer=model,
        model_type="bpe",
        vocab_size=max(pieces, len(np.unique(numbered))) + 1,
        hard_vocab_limit=False,
        character_coverage=1.0,
        max_sentencepiece_length=len(sizes),
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_by_unicode_script=False,
        split_by_number=False,
        split_by_whitespace=False,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


class Pieces:
    """A vocabulary as a trie of codes, for segmenting many items at once.

    The segmentation equals SentencePiece's (merge the neighbours with the highest score until none can be merged); a
    property test compares the two. A code missing from the vocabulary is a single piece.

    Parameters
    ----------
    sizes : sequence of int
        Codes per level.
    model : bytes
        Result of :func:`learn_pieces`; empty for a vocabulary of single codes.

    Attributes
    ----------
    count : int
        Rows of a table of pieces: 0 is padding, 1 is for items without codes, then all single codes, then longer pieces.
    tensors : dict
        The trie: ``keys`` and ``children`` of its edges, ``scores`` and ``rows`` of its nodes, ``starts`` of the levels.
    """

    def __init__(self, sizes: Sequence[int], model: bytes) -> None:
        self._width = sum(sizes)
        longer = _longer_pieces(model, _characters(sizes)) if model else {}
        self.count = 2 + self._width + len(longer)
        row_of: dict[tuple[int, ...], int] = {(number,): 2 + number for number in range(self._width)}
        row_of |= {piece: 2 + self._width + place for place, piece in enumerate(sorted(longer))}
        node: dict[tuple[int, ...], int] = {(): 0}
        for piece in row_of:
            for end in range(1, len(piece) + 1):
                node.setdefault(piece[:end], len(node))
        edges = sorted((node[piece[:-1]] * self._width + piece[-1], at) for piece, at in node.items() if piece)
        scores, rows = np.full(len(node), -np.inf, dtype=np.float32), np.zeros(len(node), dtype=np.int64)
        for piece, row in row_of.items():
            scores[node[piece]], rows[node[piece]] = longer.get(piece, 0.0), row
        keys, children = np.array(edges, dtype=np.int64).T
        self.tensors = {
            "keys": torch.from_numpy(keys.copy()),
            "children": torch.from_numpy(children.copy()),
            "scores": torch.from_numpy(scores),
            "rows": torch.from_numpy(rows),
            "starts": torch.from_numpy(_starts(sizes)),
        }

    def segment(self, codes: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """Segment items into pieces.

        Parameters
        ----------
        codes : Tensor
            ``int64 [items, levels]``, -1 for items without codes.
        tensors : dict
            ``self.tensors``, on the device of the codes.

        Returns
        -------
        Tensor
            Table rows ``int64 [items, levels]``: each piece's row at the level where it begins, 0 elsewhere; 1 at the first
            level for an item without codes.
        """
        levels = codes.shape[1]
        spans = [(start, end) for start in range(levels) for end in range(start + 1, levels + 1)]
        scores, rows = self._spans(codes.clamp(min=0) + tensors["starts"], tensors)
        first, last = (torch.tensor(each, device=codes.device) for each in zip(*spans, strict=True))
        cut = torch.ones((codes.shape[0], levels + 1), dtype=torch.bool, device=codes.device)
        for _ in range(levels - 1):
            # A span is a merge of two neighbours if exactly one cut lies strictly inside it.
            joined = scores.masked_fill(_cuts_between(cut, first, last) != 1, -torch.inf)
            best, at = joined.max(dim=1)
            place = torch.arange(levels + 1, device=codes.device)
            inside = (place > first[at][:, None]) & (place < last[at][:, None])
            cut &= ~(inside & (best > -torch.inf)[:, None])
        pieces = rows * (_cuts_between(cut, first, last) == 0)
        segmented = torch.zeros_like(codes).index_add_(1, first, pieces)
        without_codes = torch.zeros_like(segmented)
        without_codes[:, 0] = 1
        return torch.where((codes >= 0).all(dim=1, keepdim=True), segmented, without_codes)

    def _spans(self, symbols: Tensor, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Score ``float32`` and table row ``int64 [items, spans]`` of every span of levels; -inf if it is not a piece."""
        keys = tensors["keys"]
        scores, rows = [], []
        for start in range(symbols.shape[1]):
            node = torch.zeros_like(symbols[:, 0])
            for symbol in symbols[:, start:].unbind(dim=1):
                key = node * self._width + symbol
                place = _place(keys, key).clamp(max=len(keys) - 1)
                # After leaving the trie, the node stays -1: its keys are negative and match no edge.
                node = torch.where(keys[place] == key, tensors["children"][place], -1)
                scores.append(torch.where(node >= 0, tensors["scores"][node], -torch.inf))
                rows.append(torch.where(node >= 0, tensors["rows"][node], 0))
        return torch.stack(scores, dim=1), torch.stack(rows, dim=1)


def _place(keys: Tensor, key: Tensor) -> Tensor:
    """Where keys ``int64 [items]`` would be inserted into the sorted ones."""
    return (keys[None, :] < key[:, None]).sum(dim=1) if is_plain() else torch.searchsorted(keys, key)


def _cuts_between(cut: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Number of cuts strictly inside each span, ``int64 [items, spans]``; -1 unless both ends are cuts."""
    count = cut.cumsum(dim=1)
    between = count[:, last - 1] - count[:, first]
    return torch.where(cut[:, first] & cut[:, last], between, -1)


def _longer_pieces(model: bytes, characters: list[str]) -> dict[tuple[int, ...], float]:
    """The pieces of two or more codes (numbered over all levels) and their scores."""
    number = {character: at for at, character in enumerate(characters)}
    read = _library().SentencePieceProcessor(model_proto=model)
    return {
        tuple(number[character] for character in read.id_to_piece(at)): float(read.get_score(at))
        for at in range(read.get_piece_size())
        if not read.is_unknown(at) and len(read.id_to_piece(at)) > 1
    }


def _library() -> Any:
    """Import SentencePiece and initialise its types.

    Its binding creates them on first use and emits a warning; with warnings as errors, it would crash later on the
    missing types.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import sentencepiece

        sentencepiece.SentencePieceProcessor()
    return sentencepiece


def _characters(sizes: Sequence[int]) -> list[str]:
    """A distinct character per code and level."""
    if sum(sizes) > _PLANE * len(_PLANES):
        raise ConfigError(
            f"spm supports at most {_PLANE * len(_PLANES):,} codes, one private-use character each, but the levels "
            f"{list(sizes)} have {sum(sizes):,}; use smaller levels, or ngram or prefix_ngram, which hash codes"
        )
    return [chr(_PLANES[number // _PLANE] + number % _PLANE) for number in range(sum(sizes))]


def _starts(sizes: Sequence[int]) -> Ints:
    return np.cumsum([0, *sizes[:-1]], dtype=np.int64)
