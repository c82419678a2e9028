"""The old path of ``sidkit.stores.online.infra``: registries of repos that an older release applied name its class.

Feast imports the class from there for `feast plan` and `feast teardown`; the next `feast apply` writes the new path.
"""

from sidkit.stores.online.infra import PackedTable

__all__ = ["PackedTable"]
