"""How data become targets, a loss, predictions and scores."""
