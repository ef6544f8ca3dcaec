"""Accuracy of classifiers."""
