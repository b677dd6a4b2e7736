"""The web server of a listening study: one page, a few JSON calls, blinded audio.

Only the standard library. Clips are named by session, trial and position, so that nothing a
listener's browser sees tells which system made what. Bound to this machine unless told otherwise.
"""

import json
import mimetypes
import re
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

from musiclm.core.errors import DataError
from musiclm.evaluation.listening.store import AnswerStore
from musiclm.evaluation.listening.study import checked_answer, read_study

_MAX_BODY_BYTES = 10_000
_AUDIO_PATH = re.compile(r"/audio/([\w-]+)/(\d+)/(\d+)")


class StudyServer(ThreadingHTTPServer):
    """Serves the study of a folder; answers go to the store in the same folder."""

    daemon_threads = True

    def __init__(self, folder: Path, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """Opens the study and the port (0 chooses a free one).

        Raises:
            DataError: There is no study, a clip of it is missing, or the port is taken.
        """
        self.folder = folder
        self.study = read_study(folder)
        for item in self.study.items:
            for condition, name in item.clips.items():
                if not (folder / name).is_file():
                    raise DataError(
                        f"The clip of {condition!r} for item {item.item_id!r} is not at {name}."
                    )
        self.store = AnswerStore(folder, self.study)
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise DataError(
                f"Cannot listen on {host}:{port} ({error.strerror}). Choose another port."
            ) from error

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}/"


class _Handler(BaseHTTPRequestHandler):
    server: StudyServer  # pyright: ignore[reportIncompatibleVariableOverride]  # ours
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, _, _ = self.path.partition("?")
        if path == "/":
            page = resources.files("musiclm.evaluation.listening").joinpath("page.html")
            self._send(page.read_bytes(), "text/html; charset=utf-8")
        elif path.startswith("/api/session/"):
            self._reply(lambda: self._state(path.removeprefix("/api/session/")))
        elif match := _AUDIO_PATH.fullmatch(path):
            self._audio(match[1], int(match[2]), int(match[3]))
        else:
            self._fail(HTTPStatus.NOT_FOUND, "There is nothing here.")

    def do_POST(self) -> None:
        size = self.headers.get("Content-Length", "")
        if not size.isdigit() or int(size) > _MAX_BODY_BYTES:
            self.close_connection = True
            self._fail(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request is too long.")
            return
        body = self.rfile.read(int(size))
        if self.path == "/api/session":
            self._reply(lambda: self._state(self.server.store.begin()))
        elif self.path == "/api/answer":
            self._reply(lambda: self._answer(body))
        else:
            self._fail(HTTPStatus.NOT_FOUND, "There is nothing here.")

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a study's log must not hold addresses of listeners."""

    def _state(self, session: str) -> dict[str, Any]:
        """What the page shows next."""
        study, trials = self.server.study, self.server.store.trials(session)
        number = self.server.store.next_trial(session)
        state: dict[str, Any] = {
            "session": session,
            "kind": study.kind,
            "question": study.question,
            "num_trials": len(trials),
            "trial": number,
            "is_done": number == len(trials),
        }
        if number < len(trials):
            state["caption"] = trials[number].item.caption
            state["num_clips"] = len(trials[number].conditions)
        return state

    def _answer(self, body: bytes) -> dict[str, Any]:
        try:
            request = json.loads(body)
            session, trial = str(request["session"]), int(request["trial"])
            values = checked_answer(self.server.study, request["answer"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError("The answer cannot be read; load the page again.") from error
        self.server.store.answer(session, trial, values)
        return self._state(session)

    def _audio(self, session: str, trial: int, position: int) -> None:
        try:
            shown = self.server.store.trials(session)[trial]
            name = shown.item.clips[shown.conditions[position]]
            data = (self.server.folder / name).read_bytes()
        except (DataError, IndexError, OSError):
            self._fail(HTTPStatus.NOT_FOUND, "There is no such clip.")
            return
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part is None or int(part[1]) >= len(data):
            self._send(data, kind, {"Accept-Ranges": "bytes"})
            return
        start, stop = int(part[1]), min(int(part[2] or len(data) - 1), len(data) - 1) + 1
        headers = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
        self._send(data[start:stop], kind, headers, HTTPStatus.PARTIAL_CONTENT)

    def _reply(self, make: Any) -> None:
        try:
            self._send(json.dumps(make()).encode(), "application/json")
        except DataError as error:
            self._fail(HTTPStatus.BAD_REQUEST, str(error))

    def _fail(self, status: HTTPStatus, message: str) -> None:
        self._send(json.dumps({"error": message}).encode(), "application/json", status=status)

    def _send(
        self,
        data: bytes,
        kind: str,
        headers: dict[str, str] | None = None,
        status: HTTPStatus = HTTPStatus.OK,
    ) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
