"""How each method works on a live model: one file a method, one line in the registry."""
