"""``stratatune bench``: plans beside what people use today."""
