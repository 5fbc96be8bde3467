"""Stand in for the agent that Ray starts for a node: do nothing, and end with the node.

    python -I -S raydae/distributed/agent.py

Ray's own agent serves a dashboard, metrics and submitted jobs, listens on three ports and takes 1 %
of a core. A node ends without one. `internals.bare_node_class` starts this file.
"""

import os
import time

if __name__ == "__main__":
    node = os.getppid()
    while os.getppid() == node:
        time.sleep(1)
