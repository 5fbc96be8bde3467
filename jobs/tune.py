"""Search noise level, learning rate and more.

    python jobs/tune.py --num-samples 8 --max-epochs 8

The same as `raydae tune`, from a checkout: `raydae/app/tune.py` does the work.
"""

from raydae.app.main import run

if __name__ == "__main__":
    run("tune")
