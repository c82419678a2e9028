"""Pairs of items that behaviour holds together: mining, batches for contrastive losses, and the backtest of a fit."""
