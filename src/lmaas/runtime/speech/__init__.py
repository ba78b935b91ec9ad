"""Inside a worker: models that speak."""
