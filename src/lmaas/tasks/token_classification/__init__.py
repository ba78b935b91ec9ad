"""Texts in, labels of their tokens out."""
