"""Smaller variants of language models: made, and measured against the source in the same run.

Runs in a sandboxed child. Knows compiled models and their tokenizers; no registry, no server.
"""
