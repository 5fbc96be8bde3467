"""Samplers draw the settings of new trials: from a quasi-random sequence, or by Optuna's TPE.

The first trial has the settings that the user gave, where the space contains them: the search is
to find better ones. Optuna is called directly: Tune's `OptunaSearch` raises KeyError at an epoch
without validation, and accepts results of earlier trials only for a second description of the
space, as Optuna's distributions.
"""

from typing import Any, Literal, Protocol, get_args

from raydae.core.errors import UserError
from raydae.search.space import Space
from raydae.search.suggesters import Fixed, Value
from raydae.search.trials import Trial
from raydae.training.config import Config

STARTUP_TRIALS = 5
"""How many trials Optuna draws at random before it models their results."""

Method = Literal["random", "optuna"]


class Sampler(Protocol):
    """A source of settings for new trials."""

    def draw(self, number: int, attempt: int) -> tuple[dict[str, Value], dict[str, Any]]:
        """Draw the settings of a trial.

        Args:
            number: of the new trial.
            attempt: from 0; greater where the settings drawn before were not valid together.

        Returns:
            The settings by dotted name, and what `Trial.drawn` records.
        """

    def tell(self, trial: Trial) -> None:
        """Take note of the result of a trial that is over. A second call changes nothing."""


def make_sampler(method: Method, space: Space, config: Config, trials: list[Trial]) -> Sampler:
    """Return the sampler of a search.

    Args:
        method: its name.
        space: the settings to draw.
        config: the settings that the user gave, and the seed.
        trials: those that the search has begun already.

    Raises:
        UserError: the method is unknown, or Optuna is not installed.
    """
    if method == "random":
        return RandomSampler(space, config)
    if method == "optuna":
        return OptunaSampler(space, config, trials)
    raise UserError(f"--search {method} must be one of {', '.join(get_args(Method))}")


class RandomSampler:
    """Draws from a quasi-random sequence: a pure function of seed, number and attempt."""

    def __init__(self, space: Space, config: Config) -> None:
        self._space, self._seed = space, config.seed
        self._given = space.parameters(config)

    def draw(self, number: int, attempt: int) -> tuple[dict[str, Value], dict[str, Any]]:
        """Draw the settings of a trial."""
        if self._given is not None and (number, attempt) == (0, 0):
            return self._space.draw(Fixed(self._given)), {}
        return self._space.sample(self._seed, number, attempt), {}

    def tell(self, trial: Trial) -> None:
        """Do nothing: draws do not depend on results."""


class OptunaSampler:
    """Draws by Optuna's tree-structured Parzen estimator (Bergstra et al. 2011).

    A search that is resumed tells a new study about all trials before it.
    """

    def __init__(self, space: Space, config: Config, trials: list[Trial]) -> None:
        try:
            import optuna
        except ImportError:
            raise UserError("--search optuna needs Optuna: pip install 'raydae[optuna]'") from None
        self._space = space
        self._given = space.parameters(config)
        self._asked: dict[int, Any] = {}  # Optuna's trials that have no result yet
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # Without the number of trials, a resumed search would draw the first settings again.
        seed = config.seed + len(trials)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        for trial in trials:
            self._study.enqueue_trial(trial.drawn)
            self._ask(trial.number)
            if trial.over:
                self.tell(trial)

    def draw(self, number: int, attempt: int) -> tuple[dict[str, Value], dict[str, Any]]:
        """Draw the settings of a trial."""
        if self._given is not None and (number, attempt) == (0, 0):
            self._study.enqueue_trial(self._given)
        changes = self._ask(number)
        return changes, self._asked[number].params

    def tell(self, trial: Trial) -> None:
        """Tell Optuna the result of a trial that is over."""
        from optuna.trial import TrialState

        asked = self._asked.pop(trial.number, None)
        if asked is None:
            return
        if trial.best is None or trial.status == "failed":
            self._study.tell(asked, state=TrialState.FAIL)
        else:
            self._study.tell(asked, trial.best["val_psnr"])

    def _ask(self, number: int) -> dict[str, Value]:
        self._asked[number] = self._study.ask()
        return self._space.draw(self._asked[number])
