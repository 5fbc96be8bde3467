"""Denoise pictures.

    python jobs/denoise.py PHOTO.jpg --out denoised

The same as `raydae denoise`, from a checkout: `raydae/app/denoise.py` does the work.
"""

from raydae.app.main import run

if __name__ == "__main__":
    run("denoise")
