"""Train a denoiser.

    python jobs/train.py --num-workers 1

The same as `raydae train`, from a checkout: `raydae/app/train.py` does the work.
"""

from raydae.app.main import run

if __name__ == "__main__":
    run("train")
