"""Read the features of one request from the online store, as the same views that training reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ranking.data.code_counts import code_reader, has_code_counts
from ranking.data.code_schema import codebook_of, stats_depths
from ranking.data.dataset import Dataset, LabelledRows
from ranking.data.decoded import CONTENT_VECTORS, DECODED_VECTORS, VectorsOf
from ranking.data.feature_views import (
    CONTENT,
    ITEM_STATS,
    SID,
    USER_HISTORY,
    USER_STATS,
    Reader,
)
from ranking.data.frame_builder import FrameBuilder, value_service
from ranking.data.schema import BUILT_IN, FeatureSchema
from ranking.serving.context import Context, context_columns, read_context_views
from ranking.serving.counts import CountedView
from ranking.serving.one_request import OneRequest, Sides
from ranking.serving.prefix_counts import PrefixCounts
from ranking.serving.request_counts import CodeCountsReader
from ranking.serving.service_reader import ServiceReader
from ranking.serving.static_items import STATIC_BYTES, STATIC_VIEWS, StaticItems
from semantic_ids.codebook import Codebook
from sidkit.core.arrays import Ints
from sidkit.core.code_stats import codes_service
from sidkit.core.feature_settings import WINDOWS
from sidkit.stores.feast_repo import feature_service
from sidkit.stores.offline.plan import ViewRows
from sidkit.stores.on_demand import Values
from sidkit.stores.template_views import is_user_recency

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

    from ranking.data.vocabulary import Vocabulary

_PRELOADED = 2_000
"""Items per read of :meth:`OnlineFeatures.preload`."""


@dataclass(frozen=True)
class Request:
    """One request as arrays, with flags for keys that are missing from the online store.

    ``known`` is ``bool [items]``: whether any view has a row for the item. An item without vectors is known; an item in no
    view was never in the item table or the log. ``user_known`` is the same for the user. ``read_seconds`` is the time that the
    online store took.
    """

    data: Dataset
    known: npt.NDArray[np.bool_]
    user_known: bool
    read_seconds: float = 0.0


class OnlineFeatures:
    """Reads the features of a request from the user, item and content parts of a feature service.

    Parameters
    ----------
    store : FeatureStore
        Feature store of the repository.
    service_name : str
        ``ctr_<codebook>``.
    codebook : Codebook
        Codebook of the service.
    schema : FeatureSchema
        The features to read besides the built-in ones; default: none.
    vectors : str
        Whether item vectors are those of the items' ``"content"``, or ``"decoded"`` from their codes; then no content vector
        is read.
    static_bytes : int
        Bound of the memory for static features of items; see :class:`ranking.serving.static_items.StaticItems`.
    vocabulary : Vocabulary, optional
        The ranker's item ids, if it has any.
    shared : OnlineFeatures, optional
        Features of another ranker, whose items are used too if they are the same.
    """

    def __init__(
        self,
        store: FeatureStore,
        service_name: str,
        codebook: Codebook,
        schema: FeatureSchema = BUILT_IN,
        vectors: VectorsOf = CONTENT_VECTORS,
        static_bytes: int = STATIC_BYTES,
        vocabulary: Vocabulary | None = None,
        shared: OnlineFeatures | None = None,
    ) -> None:
        self._codebook = codebook
        self._schema = schema
        self._vectors = vectors
        decoded = vectors == DECODED_VECTORS
        unread = {f"{CONTENT}__{name}" for name in codebook.encoder.modalities_} if decoded else set()
        self._by_value = {
            view: _reader(store, feature_service(store, value_service(service_name, attribute), allow_cache=True))
            for view, attribute in schema.by_value.items()
        }
        self._by_code = None
        if schema.reads_code_stats:
            self._by_code = code_reader(store, service_name, lambda service: _reader(store, service))
        self._user, self._item, self._content = (
            ServiceReader(store, feature_service(store, f"{service_name}_{part}", allow_cache=True), unread)
            for part in ("user", "item", "content")
        )
        context = f"{service_name}_context"
        services = store.registry.list_feature_services(store.project, allow_cache=True)
        has_context = any(service.name == context for service in services)
        self._context = ServiceReader(store, feature_service(store, context, allow_cache=True)) if has_context else None
        self._fast = self._fast_reader(store, service_name, static_bytes, vocabulary, shared)

    def _prefixes(self, store: FeatureStore, service_name: str, like: Sides | None) -> PrefixCounts | None:
        """The counts per prefix, if the codebook has any: also for a ranker that does not read them, to share its items."""
        if not has_code_counts(store, service_name, allow_cache=True):
            return None
        codebook = codebook_of(service_name)
        reader = ServiceReader(store, feature_service(store, codes_service(codebook), allow_cache=True))
        views = reader.packed.views if reader.packed is not None else {}
        depths = stats_depths(views)
        if not PrefixCounts.fits(depths, views):
            return None
        held = like.static.prefixes if like is not None else None
        same = held is not None and (held.codebook, held.depths, held.views) == (codebook, depths, views)
        return held if same else PrefixCounts(codebook, depths, views)

    def _fast_reader(
        self,
        store: FeatureStore,
        service_name: str,
        static_bytes: int,
        vocabulary: Vocabulary | None,
        shared: OnlineFeatures | None,
    ) -> OneRequest | None:
        """The reader of requests from the packed store; None for other stores and own definitions of the built-in views."""
        like = shared._fast.sides if shared is not None and shared._fast is not None else None
        readers, packed = (self._user, self._item, self._content), self._item.packed
        if packed is None:
            return None
        user, item, content = (each.packed.views if each.packed is not None else {} for each in readers)
        static = [item[name] for name in STATIC_VIEWS if name in item]
        plain = all(view.keys == (("item_id", "item_id", "STRING"),) for view in (*static, *content.values()))
        same = {view.name: view for view in static} == {
            name: content.get(name) for name in STATIC_VIEWS if name in item
        }
        if not (
            plain and same and {CONTENT, SID, ITEM_STATS} <= item.keys() and {USER_HISTORY, USER_STATS} <= user.keys()
        ):
            return None
        by_user = (("user_id", "user_id", "STRING"),)
        if item[ITEM_STATS].keys != static[0].keys or any(
            user[name].keys != by_user for name in (USER_HISTORY, USER_STATS)
        ):
            return None
        prefixes = self._prefixes(store, service_name, like)
        if prefixes is None and self._by_code is not None:
            return None
        names = self._schema.names
        own = self._item.views.computing(names).excluding({*STATIC_VIEWS, ITEM_STATS})
        of_template = [view for view in self._user.views.on_demand if is_user_recency(view.view)]
        recency = [f"{view.name}__{feature}" for view in of_template for feature, _ in view.features]
        computed = [name for name in names if name not in recency]
        of_user = self._user.views.computing(computed).excluding({USER_HISTORY, USER_STATS})
        made = StaticItems(
            static,
            CountedView(item[ITEM_STATS], WINDOWS, conversions=True),
            self._codebook,
            self._schema,
            self._vectors,
            prefixes,
            vocabulary,
            static_bytes,
        )
        sides = Sides(
            database=packed.database,
            history=user[USER_HISTORY],
            recency=tuple(each for each in recency if each in names),
            user=self._user.narrowed(of_user) if of_user.names else None,
            items=self._item.narrowed(own) if own.names else None,
            static=made.like(like.static if like is not None else None),
            user_stats=CountedView(user[USER_STATS], WINDOWS, conversions=False),
            codes=CodeCountsReader(prefixes, self._schema)
            if prefixes is not None and self._by_code is not None
            else None,
            by_value=self._by_value,
        )
        return OneRequest(sides, self._schema, self._vectors)

    def request(
        self,
        user_id: str,
        item_ids: Sequence[str],
        at_us: int,
        *,
        rate: float,
        history_length: int,
        context: Context | None = None,
    ) -> Request:
        """Read the rows (user, item) of one request at one time, as arrays.

        Reads the candidates, the user once, the items of the user's history, views that need the ``context``, the user's
        counts per value of the candidates, and the counts per prefix of the candidates' codes.
        """
        columns = context_columns(self._schema, context or {}, len(item_ids))
        if self._fast is not None:
            began = perf_counter()
            with self._fast.sides.database.reading() as reading:  # one snapshot, of the views that need the context too
                further = self._context_views(user_id, item_ids, at_us, context)
                read = self._fast.read(reading, user_id, item_ids, at_us, history_length)
                read_seconds = perf_counter() - began
                if read is not None:
                    data = self._fast.gather(read, rate, history_length, further, columns)
                    return Request(data, read.known, read.user_known, read_seconds)
        began = perf_counter()
        items = np.array(item_ids, dtype=object)
        times_us = np.full(len(items), at_us, dtype=np.int64)
        views = self._item.read({"item_id": item_ids}, at_us)
        known = known_in(self._item.stored(views), len(items))
        user = self._user.read({"user_id": [user_id]}, at_us)
        for name, view in user.items():
            views[name] = ViewRows(name, np.repeat(view.index, len(items)), view.table)
        views |= self._context_views(user_id, item_ids, at_us, context)
        read_seconds = perf_counter() - began
        rows = LabelledRows(
            np.full(len(items), user_id, dtype=object),
            items,
            times_us,
            np.zeros(len(items), np.int8),
            context=columns,
        )

        def look_up(history: npt.NDArray[np.object_], _: Ints) -> Mapping[str, ViewRows]:
            return self._content.read({"item_id": history.tolist()}, at_us)

        builder = FrameBuilder(
            self._codebook,
            look_up,
            rate=rate,
            history_length=history_length,
            schema=self._schema,
            by_value=self._by_value,
            by_code=self._by_code,
            vectors=self._vectors,
            one_moment=True,
        )
        data = builder.assemble(views, rows)
        return Request(data, known, bool(known_in(self._user.stored(user), 1)[0]), read_seconds)

    def _context_views(
        self, user_id: str, item_ids: Sequence[str], at_us: int, context: Context | None
    ) -> dict[str, ViewRows]:
        if self._context is None:
            return {}
        return read_context_views(self._context.read, self._context.views, user_id, item_ids, at_us, context or {})

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The vocabulary in which items are numbered; equal to that of the ranker."""
        return None if self._fast is None else self._fast.sides.static.vocabulary

    def preload(self, item_ids: Sequence[str], at_us: int) -> int:
        """Read the features of items, the last ones first, until their memory is full; returns how many are held.

        Nothing is read if the items are shared with another ranker.
        """
        if self._fast is None or len(self._fast.sides.static):
            return 0
        static, held = self._fast.sides.static, min(self._fast.sides.static.room, len(item_ids))
        chosen = item_ids[len(item_ids) - held :]
        for start in range(0, held, _PRELOADED):
            with self._fast.sides.database.reading() as reading:
                static.look_up(reading, chosen[start : start + _PRELOADED], at_us)
        if self._fast.sides.codes is not None:
            with self._fast.sides.database.reading() as reading:
                self._fast.sides.codes.counts.preload(reading)
        return len(static)

    def known(self, item_ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Whether any view of items has a row, per item."""
        return known_in(self._item.stored(self._item.read({"item_id": item_ids})), len(item_ids))


def _reader(store: FeatureStore, service: FeatureService) -> Reader:
    """A reader of the second reads of a request, whose rows all have the time of the request."""
    reader = ServiceReader(store, service)

    def read(keys: Mapping[str, Values], at_us: Ints) -> dict[str, ViewRows]:
        return reader.read({name: list(values) for name, values in keys.items()}, int(at_us[0]) if len(at_us) else None)

    return read


def known_in(views: Iterable[ViewRows], rows: int) -> npt.NDArray[np.bool_]:
    """Whether any of the views has a row, per requested row."""
    known = np.zeros(rows, dtype=np.bool_)
    for view in views:
        known |= np.asarray(view.index) >= 0
    return known
