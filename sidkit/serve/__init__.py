"""The HTTP service: ranks candidates, looks up codes and similar items, and follows the catalogue without a restart."""
