"""Rows of named values in, classes or numbers out."""
