"""The trunk cache: the trunk runs once per example, and every epoch, seed and trial starts from what it said."""
