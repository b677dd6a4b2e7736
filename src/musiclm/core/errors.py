"""The error family: what was given, what is allowed, what to do, in one line."""


class MusicLMError(Exception):
    """Base of every error a user can cause; the CLI prints its one line and exits with code 2."""


class ConfigError(MusicLMError, ValueError):
    """A configuration that makes no sense."""


class AudioError(MusicLMError):
    """Audio that cannot be read, written or used."""


class DataError(MusicLMError):
    """A corpus, manifest or token store that cannot be read or used."""


class CheckpointError(MusicLMError):
    """Weights that are missing, truncated, foreign or of another version."""


class PromptError(MusicLMError, ValueError):
    """A prompt or a generation request that cannot be carried out."""


class DependencyError(MusicLMError):
    """An optional package, program or data file is not installed."""


class TrainingError(MusicLMError):
    """A training run that cannot go on, such as one whose loss is no number any more."""
