"""How translation is trained."""
