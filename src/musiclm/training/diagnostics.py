"""Diagnostics: what to do when a run goes wrong (losses that are not finite, collapses)."""

import logging
from dataclasses import dataclass, field

_logger = logging.getLogger(__name__)


@dataclass
class Alarm:
    """Says once that something is wrong, and once more when it is well again.

    A task keeps one for each thing it watches and calls `check` after every step.
    """

    name: str
    """What is watched, as the log shows it."""
    patience: int = 1
    """Checks in a row that must fail before it rings."""
    is_ringing: bool = field(default=False, init=False)
    _num_failures: int = field(default=0, init=False)

    def check(self, is_wrong: bool, detail: str = "") -> bool:
        """Notes one observation; warns when the trouble starts and informs when it ends.

        Args:
            is_wrong: Whether the watched figure is out of bounds.
            detail: The figure and what to do, for the log line.

        Returns:
            Whether the alarm is ringing.
        """
        self._num_failures = self._num_failures + 1 if is_wrong else 0
        if self._num_failures >= self.patience and not self.is_ringing:
            self.is_ringing = True
            _logger.warning("%s: %s", self.name, detail)
        elif not is_wrong and self.is_ringing:
            self.is_ringing = False
            _logger.info("%s: well again. %s", self.name, detail)
        return self.is_ringing


@dataclass
class RollbackGuard:
    """Allows one rollback a checkpoint; a second failure after the same checkpoint ends the run."""

    _rolled_back_to: int | None = field(default=None, init=False)

    def may_roll_back_to(self, checkpoint_step: int | None) -> bool:
        """Whether there is a checkpoint and it was not gone back to before; notes that it was."""
        if checkpoint_step is None or checkpoint_step == self._rolled_back_to:
            return False
        self._rolled_back_to = checkpoint_step
        return True
