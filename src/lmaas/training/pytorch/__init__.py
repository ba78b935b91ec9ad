"""Training in PyTorch: the learner, and the networks that recipes name."""
