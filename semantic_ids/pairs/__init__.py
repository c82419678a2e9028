"""Item pairs from user behaviour: mining, batches for contrastive losses, and the backtest of a fit."""
