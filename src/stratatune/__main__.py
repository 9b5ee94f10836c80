"""``python -m stratatune``: the command line."""

from __future__ import annotations

from stratatune.app.cli import main

if __name__ == "__main__":
    main()
