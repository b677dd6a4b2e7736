"""Word pieces: the pruned vocabulary, and text to piece ids with what was unknown reported."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

from musiclm.conditioning.music_words import MUSIC_WORDS
from musiclm.core.errors import ConfigError, PromptError

PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIAL_PIECES = (PAD, UNKNOWN, START, END)


def pruned_vocabulary(
    pieces: Sequence[str], texts: Iterable[str], *, num_frequent: int
) -> tuple[str, ...]:
    """The part of a WordPiece vocabulary that musical English needs, in its old order.

    Kept are the special pieces, every Latin letter, digit and punctuation mark alone and as a
    continuation (so that any Latin word can still be spelled), the pieces of `texts` and of a
    word list of music, and the `num_frequent` most frequent pieces of English: BERT's
    vocabulary lists them by frequency from `the` on.

    Args:
        pieces: The whole vocabulary, in the order of its ids.
        texts: Captions whose pieces are all kept.
        num_frequent: Pieces kept for their frequency alone.

    Raises:
        ConfigError: A special piece is missing.
    """
    missing = [piece for piece in SPECIAL_PIECES if piece not in pieces]
    if missing:
        raise ConfigError(f"The vocabulary lacks {missing[0]}: give a BERT WordPiece vocabulary.")
    whole = _tokenizer(pieces)
    kept: set[str] = set(SPECIAL_PIECES)
    kept.update(piece for piece in pieces if _is_spelling(piece.removeprefix("##")))
    start = pieces.index("the") if "the" in pieces else 0
    kept.update(pieces[start : start + num_frequent])
    for text in (MUSIC_WORDS, *texts):
        kept.update(whole.encode(text, add_special_tokens=False).tokens)
    return tuple(piece for piece in pieces if piece in kept)


def _is_spelling(character: str) -> bool:
    if len(character) != 1:
        return False
    is_sign = character in "♭♯" or unicodedata.category(character).startswith("P")
    return is_sign or character.isascii() or "LATIN SMALL" in unicodedata.name(character, "")


def _tokenizer(pieces: Sequence[str]) -> Tokenizer:
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


@dataclass(frozen=True)
class TokenizedText:
    """Texts as piece ids.

    Attributes:
        ids: Piece ids, padded on the right.
        mask: Where a piece stands (false: padding).
        is_cut: For each text, whether its end was dropped because it is too long.
    """

    ids: Int[Tensor, "batch positions"]
    mask: Bool[Tensor, "batch positions"]
    is_cut: tuple[bool, ...]


class WordPieces:
    """BERT's lower-casing WordPiece tokenizer over a given list of pieces.

    A character that no piece can spell (an emoji, another script) becomes an unknown of its own
    and does not take the word beside it along.
    """

    def __init__(self, pieces: Sequence[str], *, max_positions: int) -> None:
        self.max_positions = max_positions
        self._tokenizer = _tokenizer(pieces)
        self._normalizer = normalizers.BertNormalizer(lowercase=True)
        spelled = (piece.removeprefix("##") for piece in pieces if piece not in SPECIAL_PIECES)
        self._characters = frozenset(character for piece in spelled for character in piece)
        self._ids = {piece: pieces.index(piece) for piece in SPECIAL_PIECES}

    def tokenize(self, texts: list[str]) -> TokenizedText:
        """Ids of some texts, framed by the start and end pieces; at most `max_positions` each.

        Raises:
            PromptError: A text is empty once spaces and control characters are gone.
        """
        rows: list[list[int]] = []
        is_cut: list[bool] = []
        for text in texts:
            ids = self._tokenizer.encode(self._apart(text), add_special_tokens=False).ids
            if not ids:
                raise PromptError("The text is empty. Describe the music in a few words.")
            is_cut.append(len(ids) > self.max_positions - 2)
            body = ids[: self.max_positions - 2]
            rows.append([self._ids[START], *body, self._ids[END]])
        length = max(len(row) for row in rows)
        padded = [row + [self._ids[PAD]] * (length - len(row)) for row in rows]
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(length)[None, :] < lengths[:, None]
        return TokenizedText(torch.tensor(padded), mask, tuple(is_cut))

    def unknown_words(self, text: str) -> list[str]:
        """The words, or parts of words, that the vocabulary cannot spell, once each."""
        normal = self._normalizer.normalize_str(text)
        marked = "".join(" " if self._is_known(character) else character for character in normal)
        joined = unicodedata.normalize("NFC", " ".join(marked.split()))
        return list(dict.fromkeys(joined.split()))

    def _is_known(self, character: str) -> bool:
        return character.isspace() or character in self._characters

    def _apart(self, text: str) -> str:
        normal = self._normalizer.normalize_str(text)
        return "".join(
            character if self._is_known(character) else f" {character} " for character in normal
        )
