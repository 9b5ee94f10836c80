"""Sources of hidden states at the frozen depth: a trunk in memory, or one that is read from its checkpoint."""
