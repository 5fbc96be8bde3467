"""App: the commands, their command lines, and what they print.

    main.py             `raydae COMMAND`: the table of the commands
    train.py            the commands, one a file: each has the dataclass of its flags and
    tune.py                 `main(argv)`, which returns the exit code
    evaluate.py
    denoise.py
    benchmark.py
    api.py              `raydae.train` and `raydae.evaluate`, the same from Python
    parsing.py          dataclasses -> command line -> dataclasses
    flags.py            the flags of a dataclass, and the table of them in --help
    component_flags.py  the flags of the chosen network, noise, loss, optimizer and source
    initial_weights.py  --init: which network the weights are of
    process.py          errors as one line, exit codes, stop requests
    invocation.py       command lines to print, in the way the user started this one
    output_file.py      --out: files for results, checked before the work
    run_images.py       the images of a new run, and what to tell the user about them
    run_test.py         the test at the end of a run: results.json, samples.png, the table
    console.py          the console, notes and progress bars
    displays.py         the live displays of a run and of a search
    tables.py           results, trials and benchmarks as tables

Imports every other room; only `raydae/__init__.py`, `raydae/__main__.py` and the scripts in `jobs/`
import it. Torch and
Ray take seconds to import, so a command imports what needs them only after it has checked its
input; `raydae --help` imports neither.

To add a command: write its module here, and add its name and the first line of its docstring to the
table in `main.py`.
"""
