"""Splits: fixed hashes decide once and for all which music and which wordings are held out."""

import hashlib

from musiclm.data.manifest import Split


def hashed_fraction(*name: str) -> float:
    """A number in [0, 1) that depends on the name only."""
    digest = hashlib.blake2b("/".join(name).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def split_of_group(group: str) -> Split:
    """90 % of groups train, 5 % validate, 5 % test; a group is never divided."""
    fraction = hashed_fraction("group", group)
    return "train" if fraction < 0.9 else "validation" if fraction < 0.95 else "test"


def is_held_out_wording(text: str) -> bool:
    """Whether a caption template or adjective is kept for tests: one in five."""
    return hashed_fraction("wording", text) < 0.2
