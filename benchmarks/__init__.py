"""Claims about speed: each a script, and the file of results that it wrote."""
