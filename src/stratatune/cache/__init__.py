"""The trunk cache: it stores the output of the frozen blocks for each example, so that they run once."""
