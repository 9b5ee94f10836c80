"""``stratatune grid``: the runs of a recipe."""
