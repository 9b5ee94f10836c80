"""The verbs of the command line, a file for each group; ``app/cli.py`` lists them."""
