"""Several runs over one base model, one encoding and one trunk cache."""
