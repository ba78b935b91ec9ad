"""Native engines: a model run by the framework that it was written in.

Each checks its files before it loads them: they may come from anybody.
"""
