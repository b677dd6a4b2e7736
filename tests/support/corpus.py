"""A small corpus of plain tunes, written as a folder of audio or as a finished corpus."""

from pathlib import Path

import torch
from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.data.manifest import Caption, Clip, Labels, Note, Split, write_manifest

RATE = 24_000
LEADS = {"flute": (1.0, 0.1, 0.0), "piano": (0.6, 0.5, 0.3), "violin": (0.5, 0.5, 0.6)}


def tune(index: int, seconds: float) -> tuple[Waveform, str]:
    """Quarter notes of a random walk on a scale, in the timbre of one lead."""
    lead = list(LEADS)[index % len(LEADS)]
    pitches = tune_pitches(index, seconds)
    times = torch.arange(int(seconds * RATE)) / RATE
    notes = (times * 4).long()
    hz = 440 * 2 ** ((pitches[notes] - 69) / 12)
    phase = 2 * torch.pi * torch.cumsum(hz / RATE, 0)
    envelope = torch.exp(-3 * (times * 4 - notes))
    waves = [part * torch.sin((n + 1) * phase) for n, part in enumerate(LEADS[lead])]
    return Waveform(0.2 * envelope * torch.stack(waves).sum(0), RATE), lead


def tune_pitches(index: int, seconds: float) -> Tensor:
    """Four MIDI numbers a second."""
    generator = torch.Generator().manual_seed(index)
    steps = torch.randint(-2, 3, (int(seconds * 4) + 1,), generator=generator).cumsum(0) % 7
    return 60 + torch.tensor([0, 2, 4, 5, 7, 9, 11])[steps]


def tune_notes(index: int, seconds: float) -> tuple[Note, ...]:
    """The notes of a tune."""
    pitches = tune_pitches(index, seconds).tolist()[: int(seconds * 4)]
    return tuple(
        Note(start_seconds=number / 4, end_seconds=(number + 1) / 4, pitch=pitch)
        for number, pitch in enumerate(pitches)
    )


def write_corpus(
    folder: Path, num_clips: int = 10, seconds: float = 12.0, *, has_notes: bool = False
) -> Path:
    """A corpus with captions; one clip in five each for validation and test."""
    clips: list[Clip] = []
    for index in range(num_clips):
        waveform, lead = tune(index, seconds)
        name = f"audio/{index:03d}.wav"
        waveform.write(folder / name)
        split: Split = "validation" if index % 5 == 3 else "test" if index % 5 == 4 else "train"
        texts = (f"a {lead} plays alone", f"solo {lead}, simple tune")
        captions = (
            Caption(text=texts[0], kind="sentence"),
            Caption(text=texts[1], kind="tags"),
            Caption(text=f"quiet {lead} practice", kind="paraphrase", is_held_out=True),
        )
        clips.append(
            Clip(
                clip_id=f"t{index:03d}",
                path=name,
                duration_seconds=seconds,
                sample_rate_hz=RATE,
                split=split,
                captions=captions,
                labels=Labels(lead=lead, instruments=(lead,)),
                melody=tune_notes(index, seconds) if has_notes else (),
            )
        )
    write_manifest(folder, clips)
    return folder
