"""Patterns against slow references; revert undoes apply; the step-wise views agree with both."""

import pytest
import torch

from musiclm.stages.pattern import Delay, Flatten, make_pattern
from musiclm.tokens.spec import TokenSpec


def spec(num_quantizers, codebook_size=10):
    return TokenSpec(
        name="coarse",
        num_quantizers=num_quantizers,
        codebook_size=codebook_size,
        frame_rate_hz=50,
    )


def random_codes(num_quantizers, num_frames, *, with_absent=True):
    generator = torch.Generator().manual_seed(num_quantizers * 100 + num_frames)
    size = (2, num_quantizers, num_frames)
    return torch.randint(0, 10 + with_absent, size, generator=generator)


def slow_id(code, level, num_quantizers):
    return num_quantizers * 10 if code == 10 else level * 10 + int(code)


def slow_flatten(codes):
    rows = []
    for piece in codes:
        levels, frames = piece.shape
        places = [(level, frame) for frame in range(frames) for level in range(levels)]
        rows.append([[slow_id(piece[level, frame], level, levels) for level, frame in places]])
    return torch.tensor(rows)


def slow_delay(codes):
    batch, levels, frames = codes.shape
    steps = torch.full((batch, levels, frames + levels - 1), levels * 10)
    for piece in range(batch):
        for level in range(levels):
            for frame in range(frames):
                code = codes[piece, level, frame]
                steps[piece, level, frame + level] = slow_id(code, level, levels)
    return steps


SIZES = pytest.mark.parametrize(("levels", "frames"), [(1, 1), (1, 5), (4, 1), (4, 3), (3, 7)])
PATTERNS = pytest.mark.parametrize("name", ["flatten", "delay"])


@SIZES
@pytest.mark.parametrize(("kind", "reference"), [(Flatten, slow_flatten), (Delay, slow_delay)])
def test_apply_equals_slow_reference(kind, reference, levels, frames):
    codes = random_codes(levels, frames)
    assert torch.equal(kind(spec(levels)).apply(codes), reference(codes))


@SIZES
@PATTERNS
def test_revert_undoes_apply(name, levels, frames):
    codes = random_codes(levels, frames)
    pattern = make_pattern(name, spec(levels))
    steps = pattern.apply(codes)
    assert steps.shape == (2, pattern.num_columns, pattern.num_steps(frames))
    assert torch.equal(pattern.revert(steps), codes)


@SIZES
@PATTERNS
@pytest.mark.parametrize("known", [0, 1, 3])
def test_every_unknown_code_is_said_once(name, levels, frames, known):
    known = min(known, frames)
    pattern = make_pattern(name, spec(levels))
    codes = random_codes(levels, frames, with_absent=False)
    only_known = codes.clone()
    only_known[:, :, known:] = 10
    whole, given = pattern.apply(codes), pattern.apply(only_known)
    first = pattern.num_known_steps(known)
    assert torch.equal(whole[:, :, :first], given[:, :, :first])
    completed = []
    for step in range(pattern.num_steps(frames)):
        unknown = (whole[0, :, step] != given[0, :, step]).nonzero().flatten().tolist()
        levels_at = pattern.levels_at(step, frames, known)
        if name == "delay":
            assert list(levels_at) == unknown
        else:
            assert len(levels_at) == len(unknown)
        for level in levels_at:
            column = level if pattern.num_columns > 1 else 0
            given[:, column, step] = whole[:, column, step]
            assert bool((given[:, column, step] // 10 == level).all())
        frame = pattern.completed_frame(step)
        if frame is not None:
            completed.append(frame)
            done = pattern.revert(given)[:, :, : frame + 1]
            assert torch.equal(done, codes[:, :, : frame + 1])
    assert completed == list(range(frames))
    assert torch.equal(given, whole)
