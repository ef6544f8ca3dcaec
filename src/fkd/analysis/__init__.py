"""Analyses of labels, models and time: each a figure and a JSON file (paper, Sec. 3 and 4)."""
