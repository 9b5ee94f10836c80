"""``stratatune bench``: compare plans with common baselines."""
