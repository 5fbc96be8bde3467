"""In the place of the agent that Ray starts beside a node: it does nothing, and ends with the node.

    python -I -S raydae/distributed/agent.py

Ray's own tells a dashboard and Prometheus of the node, starts jobs that are submitted, listens to
others on three ports, and takes a hundredth of a core. A node does not live without one.
"""

import os
import time

if __name__ == "__main__":
    node = os.getppid()
    while os.getppid() == node:
        time.sleep(1)
