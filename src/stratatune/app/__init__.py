"""The doors: the command line and the estimators in scikit-learn's manners."""
