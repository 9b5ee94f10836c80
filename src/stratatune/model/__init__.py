"""A plan put into a live model: attaching, the split into trunk and top, saving and loading."""
