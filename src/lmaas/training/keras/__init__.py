"""Training in Keras: networks and the learner. Imported on demand."""
