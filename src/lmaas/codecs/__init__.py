"""Bytes to arrays and back: image and sound files, JSON bodies, Open Inference Protocol tensors.

The only place that decodes. Knows no models and no transport.
"""
