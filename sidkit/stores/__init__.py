"""Feast integration: offline and online stores, registry, and opening, applying and checking a Feast repository.

Nothing is imported here: importing Feast takes seconds, so each module imports it only when needed.
"""
