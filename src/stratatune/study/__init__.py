"""Many runs: what they would cost, what they did cost, which to choose."""
