"""Images in, labels with scores out."""
