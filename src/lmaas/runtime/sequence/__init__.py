"""Models of an encoder and a decoder: a source (text, sound, picture) in, tokens out."""
