"""Stock clients against one server: a short script for each, given a URL and a key.

Scripts that need packages of their own run in environments that `make clients` makes; the others
run in `make test` too.
"""
