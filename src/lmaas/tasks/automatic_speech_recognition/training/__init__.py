"""How models that hear are trained."""
