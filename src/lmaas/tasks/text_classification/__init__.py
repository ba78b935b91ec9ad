"""Texts in, labels with scores out."""
