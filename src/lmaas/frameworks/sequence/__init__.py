"""Encoder-decoders: described, their weights named alike whatever trained them, compiled to graphs.

`network` says what a network is, `compile` writes its two graphs, `families` read Hugging Face's
checkpoints into that form, `checkpoint` makes a package of one.
"""
