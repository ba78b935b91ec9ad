"""The task `text-to-speech`."""
