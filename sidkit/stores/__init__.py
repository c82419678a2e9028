"""Feast plug-ins, named by class path in ``feature_store.yaml``, and the way this kit opens a Feast repo.

Nothing is imported here: importing Feast takes seconds, so each module does it when it is asked for.
"""
