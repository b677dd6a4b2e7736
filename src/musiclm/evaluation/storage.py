"""Storage: what the same weights lose when they are kept in fewer bits.

Conventions: `exact` is the model with the more exact weights, `stored` the same one as it comes
back from the smaller file. Stages read and are asked for the same held-out tokens (teacher
forcing); divergences and losses are in nats a token, KL(exact || stored): what stored weights cost
a reader of music that the exact ones make. Intervals resample crops or clips.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.codec.losses import log_mel_distance_db
from musiclm.codec.soundstream import SoundStream
from musiclm.core.errors import DataError
from musiclm.evaluation.codec_quality import si_sdr_db
from musiclm.evaluation.distances import Interval, bootstrap_mean
from musiclm.stages.language_model import Codes, StageModel


@dataclass(frozen=True)
class StageStorage:
    """One stage in two storages.

    Attributes:
        num_crops: Crops, one a clip.
        num_tokens: Target tokens of all of them.
        same_top_token: Share of tokens whose likeliest value is the same.
        kl_nats: KL(exact || stored).
        loss_nats: Cross-entropy of the stored weights.
        exact_loss_nats: Of the exact ones.
        loss_added_nats: Stored minus exact, crop by crop.
        level_same_top_token: By level of the target.
        level_kl_nats: Likewise.
    """

    num_crops: int
    num_tokens: int
    same_top_token: Interval
    kl_nats: Interval
    loss_nats: Interval
    exact_loss_nats: Interval
    loss_added_nats: Interval
    level_same_top_token: tuple[float, ...]
    level_kl_nats: tuple[float, ...]


@dataclass(frozen=True)
class CodecStorage:
    """A codec in two storages.

    Attributes:
        num_clips: Clips.
        same_codes: Share of equal codes.
        level_same_codes: By level; later levels code what earlier ones left over.
        si_sdr_db: Of the stored codec's reconstruction against the exact one's, each of its own
            codes.
        si_sdr_of_the_same_codes_db: Both decoders are given the exact encoder's codes, as in
            generation, which encodes nothing.
        log_mel_db: Log-mel distance of the stored codec's reconstruction to the clip.
        exact_log_mel_db: Of the exact one's.
        log_mel_added_db: Stored minus exact, clip by clip.
    """

    num_clips: int
    same_codes: Interval
    level_same_codes: tuple[float, ...]
    si_sdr_db: Interval
    si_sdr_of_the_same_codes_db: Interval
    log_mel_db: Interval
    exact_log_mel_db: Interval
    log_mel_added_db: Interval


def compare_stages(
    exact: StageModel,
    stored: StageModel,
    batches: Sequence[Mapping[str, Codes]],
    *,
    generator: np.random.Generator,
) -> StageStorage:
    """What two storages of one stage say about the same crops.

    Args:
        exact: The stage with the more exact weights.
        stored: The same stage.
        batches: Codes of all segments, crops of one length without absent target codes.
        generator: Of the bootstrap.

    Raises:
        DataError: They are not the same stage, or there are fewer than two crops.
    """
    if exact.config != stored.config:
        raise DataError(
            f"The two {exact.layout.name} stages have different configs: they are not one model in "
            "two storages. Give the weights that the stored ones were made from."
        )
    # [measures crops levels]: same top token, divergence, loss, exact loss.
    found = torch.cat([_measured(exact, stored, codes) for codes in batches], dim=1)
    same, divergence, loss, exact_loss = found.mean(dim=2).numpy()
    target = exact.layout.target
    return StageStorage(
        num_crops=found.shape[1],
        num_tokens=sum(codes[target.name].numel() for codes in batches),
        same_top_token=bootstrap_mean(same, generator=generator),
        kl_nats=bootstrap_mean(divergence, generator=generator),
        loss_nats=bootstrap_mean(loss, generator=generator),
        exact_loss_nats=bootstrap_mean(exact_loss, generator=generator),
        loss_added_nats=bootstrap_mean(loss - exact_loss, generator=generator),
        level_same_top_token=tuple(found[0].mean(dim=0).tolist()),
        level_kl_nats=tuple(found[1].mean(dim=0).tolist()),
    )


def compare_codecs(
    exact: SoundStream,
    stored: SoundStream,
    clips: Iterable[Waveform],
    *,
    generator: np.random.Generator,
) -> CodecStorage:
    """What two storages of one codec make of the same clips.

    Raises:
        DataError: They are not the same codec, or there are fewer than two clips.
    """
    if exact.config != stored.config:
        raise DataError(
            "The two codecs have different configs: they are not one model in two storages. Give "
            "the weights that the stored ones were made from."
        )
    measured = [_of_clip(exact, stored, clip.resampled(exact.sample_rate_hz)) for clip in clips]
    if len(measured) < 2:
        raise DataError(f"An interval needs at least 2 clips; got {len(measured)}.")
    same = torch.stack([clip.same_codes for clip in measured])
    stored_db = np.array([clip.log_mel_db for clip in measured])
    exact_db = np.array([clip.exact_log_mel_db for clip in measured])

    def interval(values: Float[np.ndarray, " clips"]) -> Interval:
        return bootstrap_mean(values, generator=generator)

    return CodecStorage(
        num_clips=len(measured),
        same_codes=interval(same.mean(dim=1).numpy()),
        level_same_codes=tuple(same.mean(dim=0).tolist()),
        si_sdr_db=interval(np.array([clip.si_sdr_db for clip in measured])),
        si_sdr_of_the_same_codes_db=interval(np.array([clip.same_codes_db for clip in measured])),
        log_mel_db=interval(stored_db),
        exact_log_mel_db=interval(exact_db),
        log_mel_added_db=interval(stored_db - exact_db),
    )


@torch.no_grad()
def _measured(
    exact: StageModel, stored: StageModel, codes: Mapping[str, Codes]
) -> Float[Tensor, "measures crops levels"]:
    """Same top token, divergence, loss and exact loss: means over the frames of each level."""
    target = codes[exact.layout.target.name]
    states = [model.target_states(codes) for model in (exact, stored)]
    levels: list[Tensor] = []
    for level in range(target.shape[1]):
        of_exact, of_stored = (
            _log_probabilities(model, state, level, target.shape[2])
            for model, state in zip((exact, stored), states, strict=True)
        )
        wanted = target[:, level, :, None]
        measures = [
            (of_exact.argmax(dim=2) == of_stored.argmax(dim=2)).double(),
            (of_exact.exp() * (of_exact - of_stored)).sum(dim=2),
            -of_stored.gather(2, wanted)[:, :, 0],
            -of_exact.gather(2, wanted)[:, :, 0],
        ]
        levels.append(torch.stack(measures).mean(dim=2).cpu())
    return torch.stack(levels, dim=2)


def _log_probabilities(
    model: StageModel, states: Tensor, level: int, num_frames: int
) -> Float[Tensor, "crops frames entries"]:
    """In float64, for small divergences are differences of like numbers."""
    chosen = model.states_of_level(states, level, num_frames)
    logits = model.level_logits(chosen.flatten(0, 1), range(level, level + 1))[:, 0]
    return logits.double().log_softmax(dim=1).unflatten(0, chosen.shape[:2])


@dataclass(frozen=True)
class _ClipStorage:
    same_codes: Float[Tensor, " levels"]
    si_sdr_db: float
    same_codes_db: float
    log_mel_db: float
    exact_log_mel_db: float


def _of_clip(exact: SoundStream, stored: SoundStream, clip: Waveform) -> _ClipStorage:
    samples = clip.samples[None].to(next(exact.parameters()))
    exact_codes, codes = exact.encode(samples), stored.encode(samples)

    def heard(codec: SoundStream, of_codes: Tensor) -> Float[Tensor, " samples"]:
        return codec.decode(of_codes)[0, : clip.num_samples].float().cpu()

    exact_sound, sound = heard(exact, exact_codes), heard(stored, codes)

    def distance(estimate: Float[Tensor, " samples"]) -> float:
        return float(log_mel_distance_db(clip.samples[None], estimate[None]))

    return _ClipStorage(
        same_codes=(exact_codes == codes).double().mean(dim=2)[0].cpu(),
        si_sdr_db=si_sdr_db(exact_sound, sound),
        same_codes_db=si_sdr_db(exact_sound, heard(stored, exact_codes)),
        log_mel_db=distance(sound),
        exact_log_mel_db=distance(exact_sound),
    )
