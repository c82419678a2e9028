"""The HTML page of ``sidkit monitor``."""
