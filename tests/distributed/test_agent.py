"""The process in the place of Ray's agent."""

import subprocess
import sys

import psutil

from raydae.distributed import agent

NODE = """
import subprocess, sys
print(subprocess.Popen([sys.executable, "-I", "-S", sys.argv[1]]).pid, flush=True)
sys.stdin.read()
"""


def test_it_lives_as_long_as_the_node_that_started_it() -> None:
    words = [sys.executable, "-c", NODE, agent.__file__]
    with subprocess.Popen(words, stdin=-1, stdout=-1, text=True) as node:
        assert node.stdout is not None
        started = psutil.Process(int(node.stdout.readline()))
        assert not psutil.wait_procs([started], timeout=1.5)[0]
        node.kill()
    assert psutil.wait_procs([started], timeout=10)[0]
