"""A small object store that speaks S3: what delta-rs asks for, with conditional puts as S3 has them.

In a process of its own (`python -m tests.object_store`): delta-rs holds Python's lock while it uploads.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html (If-None-Match), API_ListObjectsV2,
API_DeleteObjects, API_CreateMultipartUpload
"""

import hashlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import urlopen
from xml.sax.saxutils import escape

_WHEN = "2026-01-01T00:00:00.000Z"


class ObjectStore:
    """A client's view of a running store."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {
            "AWS_ENDPOINT_URL": self._url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }

    def deny(self) -> None:
        """Answer every request with 403 from now on."""
        self._asked("/-/deny")

    def names(self) -> list[str]:
        """Every object of the bucket."""
        found: list[str] = self._asked("/-/state")["keys"]
        return found

    def refused(self) -> int:
        """How many conditional puts came second."""
        return int(self._asked("/-/state")["refused"])

    def _asked(self, path: str) -> Any:
        with urlopen(f"{self._url}{path}", timeout=10) as answer:
            return json.load(answer)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.numbers = count()
        self.lock = threading.Lock()
        self.denies = False
        self.refused = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # Head and body in one packet; in two, each answer waits 40 ms for an acknowledgement.
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_PUT(self) -> None:
        body = self._body()
        key, query = self._asked()
        with self.server.lock:
            if "uploadId" in query:
                self.server.uploads[query["uploadId"][0]][int(query["partNumber"][0])] = body
            elif self.headers.get("If-None-Match") == "*" and key in self.server.objects:
                self.server.refused += 1
                self._answer(412, _error("PreconditionFailed"))
                return
            else:
                self.server.objects[key] = body
        self._answer(200, b"", ETag=_tag(body))

    def do_GET(self) -> None:
        self._body()
        key, query = self._asked()
        if self.path.startswith("/-/"):
            self._answer(200, self._told())
            self.server.denies = self.server.denies or key == "deny"
            return
        if "list-type" in query:
            self._answer(200, self._listing(query))
            return
        with self.server.lock:
            content = self.server.objects.get(key)
        if content is None:
            self._answer(404, _error("NoSuchKey"))
            return
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if found is None:
            self._answer(200, content, ETag=_tag(content))
            return
        first, last = found.groups()
        start = int(first) if first else max(len(content) - int(last), 0)
        end = min(int(last) + 1, len(content)) if first and last else len(content)
        place = f"bytes {start}-{end - 1}/{len(content)}"
        self._answer(206, content[start:end], **{"ETag": _tag(content), "Content-Range": place})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self._body()
        with self.server.lock:
            self.server.objects.pop(self._asked()[0], None)
        self._answer(204, b"")

    def do_POST(self) -> None:
        body = self._body()
        key, query = self._asked()
        with self.server.lock:
            if "delete" in query:
                keys = [unquote(name) for name in re.findall(r"<Key>(.*?)</Key>", body.decode())]
                for name in keys:
                    self.server.objects.pop(name, None)
                deleted = "".join(f"<Deleted><Key>{escape(name)}</Key></Deleted>" for name in keys)
                answer = f"<DeleteResult>{deleted}</DeleteResult>"
            elif "uploads" in query:
                upload = str(next(self.server.numbers))
                self.server.uploads[upload] = {}
                answer = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            else:
                parts = self.server.uploads.pop(query["uploadId"][0])
                content = b"".join(parts[number] for number in sorted(parts))
                self.server.objects[key] = content
                answer = f"<CompleteMultipartUploadResult><ETag>{_tag(content)}</ETag></CompleteMultipartUploadResult>"
        self._answer(200, answer.encode())

    def _asked(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return unquote(parts.path.split("/", 2)[-1]), parse_qs(parts.query, keep_blank_values=True)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _told(self) -> bytes:
        with self.server.lock:
            return json.dumps({"keys": sorted(self.server.objects), "refused": self.server.refused}).encode()

    def _listing(self, query: dict[str, list[str]]) -> bytes:
        prefix, delimiter, after = (query.get(name, [""])[0] for name in ("prefix", "delimiter", "start-after"))
        found, folders = "", set()
        with self.server.lock:
            objects = sorted(self.server.objects.items())
        for key, content in objects:
            if not key.startswith(prefix) or key <= after:
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                found += (
                    f"<Contents><Key>{escape(key)}</Key><LastModified>{_WHEN}</LastModified>"
                    f"<ETag>{_tag(content)}</ETag><Size>{len(content)}</Size></Contents>"
                )
        found += "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()

    def _answer(self, status: int, content: bytes, **headers: str) -> None:
        if self.server.denies:
            status, content = 403, _error("AccessDenied")
        self.send_response(status)
        for name, value in ({"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"} | headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """A store that runs until the end of the block."""
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield ObjectStore(int(process.stdout.readline()))
        finally:
            process.kill()


def _tag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


if __name__ == "__main__":
    with _Server() as _server:
        sys.stdout.write(f"{_server.server_address[1]}\n")
        sys.stdout.flush()
        _server.serve_forever()
