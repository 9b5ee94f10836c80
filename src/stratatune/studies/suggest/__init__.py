"""``stratatune suggest``: which plan for this model and these data."""
