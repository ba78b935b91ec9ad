"""Durable long work: the queue, the runner that gives each job a process, what became of it."""
