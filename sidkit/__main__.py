"""``python -m sidkit``."""

from sidkit.cli import main

main()
