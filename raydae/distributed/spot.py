"""Passes EC2's notice that a spot instance will be taken away on to Ray, which does not ask for it.

    python -m raydae.distributed.spot    # on a worker node, beside Ray; cluster.yaml starts it

Runs with a worker on this node then save a checkpoint at once, and often until it goes.
"""

import subprocess
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

METADATA = "http://169.254.169.254/latest"  # what EC2 tells an instance of itself
LOOK_S = 5.0  # between two looks, as EC2's documentation has it
NOTICE_S = 120  # EC2's, at least


def will_be_taken(metadata: str) -> bool:
    """Whether EC2 has given notice; no, too, where it does not answer.

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
    """Waits for the notice, and passes it on."""
    while not will_be_taken(METADATA):
        time.sleep(LOOK_S)
    command = ["ray", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "EC2 takes this spot instance away"]
    command += ["--deadline-remaining-seconds", str(NOTICE_S)]
    while subprocess.run(command, check=False).returncode:  # until the machine goes, at the longest
        time.sleep(LOOK_S)


if __name__ == "__main__":
    main()
