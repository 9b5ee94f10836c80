"""A plan in a live model: families, heads, trunk and top, saving and loading."""
