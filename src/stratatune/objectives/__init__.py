"""Objectives: how data become targets, a loss, predictions and scores."""
