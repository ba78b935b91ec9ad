"""Names, immutable versions and aliases (SQLite) over content-addressed files.

Knows no frameworks, engines or workers.
"""
