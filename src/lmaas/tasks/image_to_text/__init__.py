"""The task `image-to-text`."""
