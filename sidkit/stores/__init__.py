"""Feast: the offline and the online store, the registry, and the way this kit opens, applies and checks a Feast repo.

Nothing is imported here: importing Feast takes seconds, so each module does it when it is needed.
"""
