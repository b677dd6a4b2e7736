"""Small corpora whose clips have known notes."""

from pathlib import Path

import numpy as np
import torch

from musiclm.audio.waveform import Waveform
from musiclm.data.manifest import Clip, Labels, Note, write_manifest
from musiclm.data.melody.line import Line
from musiclm.data.melody.voices import sing

RATE = 24_000


def melody_notes(seed, seconds, per_second=3.0):
    """A random walk on a major scale."""
    draw = np.random.default_rng(seed)
    scale = np.array([0, 2, 4, 5, 7, 9, 11])
    count = int(seconds * per_second)
    steps = np.cumsum(draw.choice([-2, -1, 1, 2, 3], count)) % 14
    pitches = 60 + scale[steps % 7] + 12 * (steps // 7)
    return tuple(
        Note(
            start_seconds=index / per_second,
            end_seconds=(index + 0.9) / per_second,
            pitch=int(pitch),
        )
        for index, pitch in enumerate(pitches)
    )


def write_melody_corpus(folder: Path, num_clips=8, seconds=10.0):
    (folder / "audio").mkdir(parents=True)
    clips = []
    for index in range(num_clips):
        notes = melody_notes(index, seconds)
        draw = np.random.default_rng(index)
        samples = sing(draw, Line.from_notes(notes), seconds, "instrument", RATE)
        path = f"audio/{index}.wav"
        Waveform(torch.from_numpy(samples), RATE).write(folder / path)
        clips.append(
            Clip(
                clip_id=f"m{index}",
                path=path,
                duration_seconds=seconds,
                sample_rate_hz=RATE,
                split="validation" if index >= num_clips - 3 else "train",
                labels=Labels(melody_cluster=f"c{index}"),
                melody=notes,
            )
        )
    write_manifest(folder, clips)
    return folder
