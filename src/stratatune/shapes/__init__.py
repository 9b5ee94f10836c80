"""The shape of a model: a row of names for each architecture, and its sizes. No torch."""
