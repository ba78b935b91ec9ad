"""Who asks, and what they may do: tenants and keys."""
