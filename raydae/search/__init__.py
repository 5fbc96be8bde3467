"""Search: find good settings by many short runs, with Ray Tune.

    space.py            the settings that a search varies, and `Space.parse` for `--space`
    suggesters.py       sources of values: known values, and a quasi-random sequence
    sampler.py          samplers draw the settings of new trials, at random or by Optuna
    trials.py           `Trial`, the trials' files, and the table `trials.csv`
    settings.py         `Settings` of a search, and `search.json`
    trial_runner.py     a trial as Tune's `Trainable`: in its own process, or under Ray Train
    tune_adapters.py    Tune's searcher, scheduler, logger and stopper; the call of Tune
    best.py             the configuration and the model of the best trial
    search.py           `Search`: read the trials, run them, write the best

May import `distributed` and what that may import; only `app` imports this room. `space.py`,
`suggesters.py`, `trials.py`, `sampler.py` and `settings.py` import neither Ray nor torch.

Every setting of the configuration can be searched by its dotted name, in the words of `space.py`,
without a change here: `--space optim.warmup=int:0:500`. A setting that must be the same for all
trials belongs in `space.FIXED`. To add a way of drawing, write a `Sampler`, add its name to
`sampler.Method`, and return it from `make_sampler`.
"""
