"""The trunk cache: what the frozen blocks computed for each example, so that they run once."""
