"""A training run and its techniques, the same for every framework.

The loop, schedules, early stopping and checkpoints know arrays and a `Learner`; how a framework
takes a step is in `training.pytorch`, `training.keras` and `training.tensorflow`.
"""
