"""Old path of ``sidkit.stores.online.infra``, referenced by registries that an older release applied.

Feast imports the class from here for `feast plan` and `feast teardown`; the next `feast apply` writes the new path.
"""

from sidkit.stores.online.infra import PackedTable

__all__ = ["PackedTable"]
