"""Pass on EC2's notice that a spot instance will be reclaimed; Ray does not ask for it.

    python -m raydae.distributed.spot    # on a worker node, next to Ray; cluster.yaml starts it

Runs with a worker on this node then save a checkpoint at once, and often until the node is gone.
"""

import subprocess
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

METADATA = "http://169.254.169.254/latest"  # EC2's instance metadata service
INTERVAL_S = 5.0  # between two requests, as EC2's documentation recommends
NOTICE_S = 120  # at least, before EC2 reclaims an instance


def has_notice(metadata: str) -> bool:
    """Return whether EC2 has given notice; False also if the service does not answer.

    Args:
        metadata: URL of the instance metadata service, version 2.
    """
    try:
        ask = Request(f"{metadata}/api/token", method="PUT")
        ask.add_header("X-aws-ec2-metadata-token-ttl-seconds", "60")
        with urlopen(ask, timeout=2) as response:
            token = response.read().decode()
        look = Request(f"{metadata}/meta-data/spot/instance-action")
        look.add_header("X-aws-ec2-metadata-token", token)
        with urlopen(look, timeout=2):
            return True
    except HTTPError as error:  # 404: there is no notice
        error.close()
        return False
    except OSError:
        return False


def main() -> None:
    """Wait for the notice, then tell Ray that this node will be drained."""
    while not has_notice(METADATA):
        time.sleep(INTERVAL_S)
    command = ["ray", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "EC2 will reclaim this spot instance"]
    command += ["--deadline-remaining-seconds", str(NOTICE_S)]
    while subprocess.run(command, check=False).returncode:  # tried until the node is gone
        time.sleep(INTERVAL_S)


if __name__ == "__main__":
    main()
