"""Analyses of labels, models and time: each a figure and a JSON file (Sec. 3 and 4 of the paper)."""
