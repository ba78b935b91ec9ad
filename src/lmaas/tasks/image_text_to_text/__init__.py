"""A conversation with images in, text out."""
