"""A conversation or prompt in, text out."""
