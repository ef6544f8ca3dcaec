"""Crops: where they lie, how they are drawn and augmented, and how they become pixels."""
