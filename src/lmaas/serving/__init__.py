"""What serves models from the server's side: the pool of workers, the router and the metrics.

It knows how to start, feed, watch and end workers; how they compute is the runtime's matter.
"""
