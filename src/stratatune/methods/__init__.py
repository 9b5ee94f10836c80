"""The edit that each method makes to a live block: one file a method, one line in the registry."""
