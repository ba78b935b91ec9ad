"""A language model inside its worker: template, tokens, engine, text."""
