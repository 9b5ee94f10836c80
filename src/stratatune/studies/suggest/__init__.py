"""``stratatune suggest``: propose a plan for this model and these data."""
