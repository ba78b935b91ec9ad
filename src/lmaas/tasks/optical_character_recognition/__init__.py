"""The task `optical-character-recognition`."""
