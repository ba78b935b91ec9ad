"""A text and labels that nobody trained on in, how well each label fits out."""
