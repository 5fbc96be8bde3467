"""In the place of the agent that Ray starts beside a node: it does nothing, and ends with the node.

    python -I -S raydae/agent.py

Ray's own tells a dashboard and Prometheus of the node, starts jobs that are submitted, and takes a
second to start. A node does not live without one.
"""

import os
import time

if __name__ == "__main__":
    node = os.getppid()
    while os.getppid() == node:
        time.sleep(1)
