"""Measure raydae's speed, and that of its alternatives.

    python jobs/benchmark.py all --out benchmark.json

The same as `raydae benchmark`, from a checkout: `raydae/app/benchmark.py` does the work.
"""

from raydae.app.main import run

if __name__ == "__main__":
    run("benchmark")
