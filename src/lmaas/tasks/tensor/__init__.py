"""Arrays in, arrays out: any model."""
