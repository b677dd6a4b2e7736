"""TokenSpec and Tokenizer: how the models that do not know one another meet."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from musiclm.core.config import Config
from musiclm.core.errors import ConfigError


class TokenSpec(Config):
    """What a stream of codes looks like."""

    name: str
    """`semantic`, `acoustic`, `coarse`, `fine`, `conditioning` or `melody`."""
    num_quantizers: int = Field(gt=0)
    """Levels per frame."""
    codebook_size: int = Field(gt=1)
    """Entries per codebook."""
    frame_rate_hz: int = Field(ge=0)
    """Frames per second; 0 for a stream of one frame a clip (conditioning)."""

    def num_frames(self, duration_seconds: float) -> int:
        """Frames in a duration; refuses durations that are no whole number of frames."""
        if not self.frame_rate_hz:
            return 1
        frames = duration_seconds * self.frame_rate_hz
        if abs(frames - round(frames)) > 1e-6:
            raise ConfigError(
                f"{duration_seconds} s is {frames} {self.name} frames at {self.frame_rate_hz} Hz; "
                "choose a duration that is a whole number of frames."
            )
        return round(frames)


@runtime_checkable
class Tokenizer(Protocol):
    """Whatever turns mono audio into codes."""

    @property
    def token_spec(self) -> TokenSpec:
        """The shape of its codes."""
        ...

    @property
    def sample_rate_hz(self) -> int:
        """The rate of the audio it reads."""
        ...

    def tokenize(
        self, samples: Float[Tensor, "batch samples"]
    ) -> Int[Tensor, "batch quantizers frames"]:
        """Codes of `[batch, samples]` audio."""
        ...
