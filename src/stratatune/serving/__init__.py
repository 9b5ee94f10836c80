"""Many trained tasks over one base model, served over HTTP; see docs/serve.md."""
