"""A SentencePiece vocabulary of codes: learned by the library, applied in tensors."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sidkit.errors import ConfigError

# The library works on characters: each code of each level is one, from the private planes 15 and 16 of Unicode.
_PLANES, _PLANE = (0xF0000, 0x100000), 0xFFFE
_UNKNOWN_PENALTY = 10.0  # SentencePiece's: an unknown character costs this much more than its rarest piece
Ints = npt.NDArray[np.int64]


def learn_pieces(codes: Ints, counts: Ints, sizes: Sequence[int], pieces: int) -> bytes:
    """Learn a unigram vocabulary.

    Frequent combinations of codes get a piece of their own, rare ones are spelled by shorter pieces (arXiv 2306.08121). One
    thread, no sampling: the same input gives the same bytes.

    Parameters
    ----------
    codes : int64 [items, levels]
        Distinct items' codes, none missing.
    counts : int64 [items]
        How often each was shown.
    sizes : sequence of int
        Codes per level.
    pieces : int
        Most pieces; at least the codes that occur are kept, whatever this says.

    Returns
    -------
    bytes
        A SentencePiece model; any tool of that library opens it.

    Raises
    ------
    ConfigError
        When the levels have more codes than there are private characters.
    """
    library = _library()
    character = _characters(sizes)
    numbered = codes + _starts(sizes)
    texts = ("".join(character[each] for each in row) for row in numbered.tolist())
    model = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=(f"{text}\t{count}" for text, count in zip(texts, counts.tolist(), strict=True)),
        input_format="tsv", model_writer=model, model_type="unigram",
        vocab_size=max(pieces, len(np.unique(numbered))) + 1, hard_vocab_limit=False, character_coverage=1.0,
        max_sentencepiece_length=len(sizes), normalization_rule_name="identity", add_dummy_prefix=False,
        remove_extra_whitespaces=False, split_by_unicode_script=False, split_by_number=False, split_by_whitespace=False,
        unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


class Pieces:
    """A vocabulary as a tree of codes, and the best segmentation of many items at once.

    The segmentation is SentencePiece's own (the highest sum of scores; of equals the one whose last piece is longest): a
    property test compares the two. A code that the vocabulary lacks is a piece of its own.

    Parameters
    ----------
    sizes : sequence of int
        Codes per level.
    model : bytes
        What :func:`learn_pieces` gave; empty for a vocabulary of single codes.

    Attributes
    ----------
    count : int
        Rows of a table of pieces: 0 is padding, 1 stands for no codes, then every single code, then the longer pieces.
    """

    def __init__(self, sizes: Sequence[int], model: bytes) -> None:
        self.sizes = tuple(sizes)
        scored = _scored_pieces(model, _characters(sizes)) if model else {}
        unknown = min(scored.values(), default=0.0) - _UNKNOWN_PENALTY
        singles = {(number,): scored.get((number,), unknown) for number in range(sum(sizes))}
        longer = sorted(piece for piece in scored if len(piece) > 1)
        self.count = 2 + len(singles) + len(longer)
        node: dict[tuple[int, ...], int] = {(): 0}
        for piece in [*singles, *longer]:
            for end in range(1, len(piece) + 1):
                node.setdefault(piece[:end], len(node))
        self._width = sum(sizes)
        edges = sorted((node[piece[:-1]] * self._width + piece[-1], at) for piece, at in node.items() if piece)
        score, row = np.full(len(node), -np.inf, dtype=np.float32), np.zeros(len(node), dtype=np.int64)
        for place, (piece, value) in enumerate([*singles.items(), *((piece, scored[piece]) for piece in longer)]):
            score[node[piece]], row[node[piece]] = value, place + 2
        found = np.array(edges, dtype=np.int64).T
        self.tensors = {
            "keys": torch.from_numpy(found[0].copy()),
            "children": torch.from_numpy(found[1].copy()),
            "scores": torch.from_numpy(score),
            "rows": torch.from_numpy(row),
            "starts": torch.from_numpy(_starts(sizes)),
        }

    def segment(self, codes: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """The pieces of some items.

        Parameters
        ----------
        codes : Tensor
            ``int64 [items, levels]``, -1 where there are none.
        tensors : dict
            ``self.tensors``, on the device of the codes.

        Returns
        -------
        Tensor
            Table rows ``int64 [items, levels]``: an item's pieces in order, then 0; 1 alone for an item without codes.
        """
        keys, children, scores, rows, starts = (
            tensors[name] for name in ("keys", "children", "scores", "rows", "starts")
        )
        coded = (codes >= 0).all(dim=1)
        symbols = codes.clamp(min=0) + starts
        count, levels = codes.shape
        # best[end] and path[end]: the best segmentation of the first `end` codes, its score and its rows.
        best = [torch.full((count,), -torch.inf, device=codes.device) for _ in range(levels + 1)]
        best[0] = torch.zeros_like(best[0])
        path = [torch.zeros_like(codes) for _ in range(levels + 1)]
        for start in range(levels):
            node = torch.zeros_like(codes[:, 0])
            for end in range(start + 1, levels + 1):
                key = node * self._width + symbols[:, end - 1]
                place = torch.searchsorted(keys, key).clamp(max=len(keys) - 1)
                # A branch that has left the tree stays at a node without children, score or row: no key is negative.
                node = torch.where((keys[place] == key) & (node >= 0), children[place], -1)
                reached = best[start] + torch.where(node >= 0, scores[node], -torch.inf)
                better = reached > best[end]
                best[end] = torch.where(better, reached, best[end])
                longer = path[start].clone()
                longer[:, start] = rows[node]
                path[end] = torch.where(better[:, None], longer, path[end])
        found = path[levels]
        none = torch.zeros_like(found)
        none[:, 0] = 1
        return torch.where(coded[:, None], found, none)


def _scored_pieces(model: bytes, characters: list[str]) -> dict[tuple[int, ...], float]:
    """Pieces as code numbers over all levels, and their scores."""
    number = {character: at for at, character in enumerate(characters)}
    read = _library().SentencePieceProcessor(model_proto=model)
    return {
        tuple(number[character] for character in read.id_to_piece(at)): float(read.get_score(at))
        for at in range(read.get_piece_size())
        if not read.is_unknown(at)
    }


def _library() -> Any:
    """SentencePiece, with its types made.

    Its binding makes them on first use and warns while it does; where warnings are errors it would then crash on a type
    that was never made.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import sentencepiece

        sentencepiece.SentencePieceProcessor()
    return sentencepiece


def _characters(sizes: Sequence[int]) -> list[str]:
    """A character per code, the levels one after the other, so that no two levels share one."""
    if sum(sizes) > _PLANE * len(_PLANES):
        raise ConfigError(
            f"spm writes each code as one private character, of which Unicode has {_PLANE * len(_PLANES):,}; the levels "
            f"{list(sizes)} have {sum(sizes):,} codes. Use smaller levels, or ngram or prefix_ngram, which hash"
        )
    return [chr(_PLANES[number // _PLANE] + number % _PLANE) for number in range(sum(sizes))]


def _starts(sizes: Sequence[int]) -> Ints:
    return np.cumsum([0, *sizes[:-1]], dtype=np.int64)
