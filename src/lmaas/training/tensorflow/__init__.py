"""Training in plain TensorFlow: networks and the learner. Imported on demand."""
