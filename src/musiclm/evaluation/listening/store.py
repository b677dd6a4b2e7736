"""Sessions and answers of a study in SQLite: nothing that was answered is lost in a crash."""

import csv
import io
import json
import secrets
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from musiclm.core.errors import DataError
from musiclm.evaluation.listening.study import Study, Trial, trials_of

STORE_NAME = "answers.sqlite"
_COLUMNS = (
    "listener", "item", "caption", "position", "condition", "compared_with", "answer", "time",
)  # fmt: skip
_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    session TEXT PRIMARY KEY,
    listener INTEGER NOT NULL UNIQUE,
    started TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
CREATE TABLE IF NOT EXISTS answers (
    session TEXT NOT NULL REFERENCES sessions (session),
    trial INTEGER NOT NULL,
    answer TEXT NOT NULL,
    answered TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (session, trial)
);
"""


@dataclass(frozen=True)
class Answer:
    """One trial that was answered.

    Attributes:
        listener: Number of the listener.
        trial: What was shown, in the order it was shown.
        values: -2 to 2 towards the second clip, or 0 to 100 for each.
        answered: When, UTC.
    """

    listener: int
    trial: Trial
    values: tuple[int, ...]
    answered: str


class AnswerStore:
    """The answers of a study; safe to use from several threads and processes.

    Write-ahead logging with a flush at each answer: a killed server loses nothing that a listener
    saw confirmed.
    """

    def __init__(self, folder: Path, study: Study) -> None:
        """Opens or begins the store.

        Raises:
            DataError: The file is no store.
        """
        self.study = study
        self._path = folder / STORE_NAME
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with self._connected() as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"{self._path} is no store of answers ({error}). Move it away."
            ) from error

    def begin(self) -> str:
        """A new session; its name is a secret that only the listener's browser knows."""
        session = secrets.token_urlsafe(16)
        with self._lock, self._connected() as connection:
            connection.execute(
                "INSERT INTO sessions (session, listener) "
                "SELECT ?, COALESCE(MAX(listener) + 1, 0) FROM sessions",
                (session,),
            )
        return session

    def trials(self, session: str) -> tuple[Trial, ...]:
        """The trials of a session.

        Raises:
            DataError: There is no such session.
        """
        with self._connected() as connection:
            row = connection.execute(
                "SELECT listener FROM sessions WHERE session = ?", (session,)
            ).fetchone()
        if row is None:
            raise DataError("There is no such session. Begin a new one.")
        return trials_of(self.study, row[0])

    def next_trial(self, session: str) -> int:
        """The first trial that is not answered; their number when all are."""
        count = len(self.trials(session))
        with self._connected() as connection:
            rows = connection.execute("SELECT trial FROM answers WHERE session = ?", (session,))
            done = {row[0] for row in rows}
        return next((number for number in range(count) if number not in done), count)

    def answer(self, session: str, trial: int, values: tuple[int, ...]) -> None:
        """Keeps an answer; a second one to the same trial takes the place of the first.

        Raises:
            DataError: There is no such session or trial.
        """
        count = len(self.trials(session))
        if not 0 <= trial < count:
            raise DataError(f"Trial {trial} is not among the session's {count}.")
        with self._lock, self._connected() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO answers (session, trial, answer) VALUES (?, ?, ?)",
                (session, trial, json.dumps(values)),
            )

    def answers(self) -> list[Answer]:
        """All answers, by listener and trial."""
        with self._connected() as connection:
            rows = connection.execute(
                "SELECT listener, trial, answer, answered FROM answers "
                "JOIN sessions USING (session) ORDER BY listener, trial"
            ).fetchall()
        trials: dict[int, tuple[Trial, ...]] = {}
        answers: list[Answer] = []
        for listener, number, text, answered in rows:
            if listener not in trials:
                trials[listener] = trials_of(self.study, listener)
            values = tuple(json.loads(text))
            answers.append(Answer(listener, trials[listener][number], values, answered))
        return answers

    @contextmanager
    def _connected(self) -> Generator[sqlite3.Connection, None, None]:
        """A connection whose changes are on the disk when the block ends well."""
        connection = sqlite3.connect(self._path, timeout=30)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            with connection:
                yield connection
        finally:
            connection.close()


def answers_csv(answers: list[Answer]) -> str:
    """One line for each clip that was judged, in comma-separated values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for answer in answers:
        shown = answer.trial.conditions
        values = answer.values
        if len(values) == 1:  # one preference is two lines, each from its own clip's side
            values = (-values[0], values[0])
        for position, (condition, value) in enumerate(zip(shown, values, strict=True), start=1):
            others = " ".join(other for other in shown if other != condition)
            item = answer.trial.item
            shown_as = (position, condition, others, value)
            writer.writerow(
                (answer.listener, item.item_id, item.caption, *shown_as, answer.answered)
            )
    return text.getvalue()
