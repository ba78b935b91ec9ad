"""What runs inside a worker: engines, batching, messages and the worker's main.

It is handed a folder and a record; it knows no framework, registry or HTTP.
"""
