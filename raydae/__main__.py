"""`python -m raydae`, the same as the command `raydae`."""

from raydae.app.main import main

if __name__ == "__main__":
    main()
