"""Forms in which what was trained leaves."""
