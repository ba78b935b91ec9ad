"""The way into a worker process: leave the network, then become the worker.

The order matters: a process can enter another namespace only before it starts threads, and the
worker's libraries start them when they are imported.
"""

import importlib

from lmaas.placement.child import leave_network

WORKER = "lmaas.runtime.worker"

if __name__ == "__main__":
    leave_network()
    importlib.import_module(WORKER).run()
