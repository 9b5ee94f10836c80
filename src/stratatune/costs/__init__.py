"""The cost of a plan before it runs: FLOPs, bytes and seconds. No torch."""
