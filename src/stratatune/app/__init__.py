"""The command line, the Python functions, and the estimators in the style of scikit-learn."""
