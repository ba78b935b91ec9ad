"""The task `object-detection`."""
