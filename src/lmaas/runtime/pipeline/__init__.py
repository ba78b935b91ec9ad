"""Models that are made of models, inside a worker."""
