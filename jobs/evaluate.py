"""Measure a model by the literature's protocol.

    python jobs/evaluate.py --protocol cbsd68 --sigma 15 25 50

The same as `raydae evaluate`, from a checkout: `raydae/app/evaluate.py` does the work.
"""

from raydae.app.main import run

if __name__ == "__main__":
    run("evaluate")
