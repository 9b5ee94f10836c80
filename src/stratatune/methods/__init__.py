"""What each method does to a live block: one file a method, one line in the registry."""
