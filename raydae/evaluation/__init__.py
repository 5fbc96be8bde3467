"""Evaluation: scores by the literature's protocol, baselines to compare with, and pictures.

    scoring.py      PSNR and SSIM of a model file, image by image, spread over Ray's workers
    score_run.py    the test of a finished run; run_scores.py: what it found
    overlap.py      the guard against evaluating on training images
    tables.py       scores as mean rows, JSON records and CSV
    classical.py    baseline denoisers that need no training
    panel.py        samples.png: noisy, denoised, a released model, clean
    figures.py      search.png: the figure of a hyperparameter search

The protocols themselves, which image belongs to which split, are in `images`. This room imports
`distributed` and what that may import; only `app` imports it. It does not import ray: work that is
spread over processes goes through `raydae.distributed.spread`.

To add a baseline, write a function `(noisy, sigma) -> denoised` in classical.py (see
`classical.Method`) and name it in `classical.available`; `raydae evaluate --compare` then scores
it. If it needs an optional package, add it only if that package is installed, as `bm3d` does.
"""
