"""A query and documents in, relevance out."""
