"""The task `summarization`."""
