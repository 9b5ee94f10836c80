"""Many runs: grids, benchmarks, suggestions and reports."""
