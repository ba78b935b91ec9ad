"""How models of the task are trained. Imported on demand."""
