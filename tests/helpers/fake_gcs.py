"""An object store in memory that speaks the JSON API of Google Cloud Storage.

Objects appear whole, and there is no rename.
"""

import contextlib
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Objects = dict[str, tuple[bytes, int]]  # name -> (content, generation)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", headers=()):
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def read(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            whole = b""
            while size := int(self.rfile.readline(), 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return whole
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def parts(self):
        path, _, query = self.path.partition("?")
        asked = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        match = re.search(r"/b/([^/]+)(?:/o(?:/(.+))?)?$", path)
        bucket = match.group(1) if match else ""
        return bucket, urllib.parse.unquote((match and match.group(2)) or ""), asked

    def about(self, name):
        content, generation = self.server.objects[name]
        return {
            "kind": "storage#object",
            "bucket": "bucket",
            "name": name,
            "size": str(len(content)),
            "generation": str(generation),
            "metageneration": "1",
            "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
        }

    def put(self, name, content, asked):
        server = self.server
        with server.lock:
            known = server.objects.get(name, (b"", 0))[1]
            wanted = asked.get("ifGenerationMatch")
            if wanted is not None and int(wanted) != known:
                return self.answer(412)
            server.count += 1
            server.objects[name] = (content, server.count)
            server.written.append(name)
        return self.answer(200, self.about(name))

    def do_GET(self):
        bucket, name, asked = self.parts()
        if not name and self.path.partition("?")[0].endswith("/o"):
            return self.listing(asked)
        if not name:
            return self.answer(200, {"kind": "storage#bucket", "name": bucket})
        found = self.server.objects.get(name)
        if found is None:
            return self.answer(404, {"error": {"code": 404, "message": "Not Found"}})
        content, generation = found
        if asked.get("alt") != "media":
            return self.answer(200, self.about(name))
        headers = [("x-goog-generation", str(generation)), ("ETag", str(generation))]
        span = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not span:
            return self.answer(200, content, headers)
        first, last = int(span.group(1)), int(span.group(2) or len(content) - 1)
        last = min(last, len(content) - 1)
        if first > last:
            return self.answer(416)
        headers.append(("Content-Range", f"bytes {first}-{last}/{len(content)}"))
        return self.answer(206, content[first : last + 1], headers)

    def listing(self, asked):
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        names, folders = [], set()
        for name in sorted(self.server.objects):
            after = name >= asked.get("startOffset", "")
            before = not asked.get("endOffset") or name < asked["endOffset"]
            if name.startswith(prefix) and after and before:
                inside, found, _ = name[len(prefix) :].partition(delimiter or "\0")
                if delimiter and found:
                    folders.add(prefix + inside + delimiter)
                else:
                    names.append(name)
        items = [self.about(name) for name in names]
        self.answer(200, {"items": items, "prefixes": sorted(folders)})

    def do_POST(self):
        if self.path.startswith("/session/"):  # gcsfs posts where others put
            return self.do_PUT()
        copy = re.search(
            r"/o/([^/]+)/(?:copyTo|rewriteTo)/b/[^/]+/o/([^/?]+)", self.path
        )
        body = self.read()
        if copy:
            source, target = map(urllib.parse.unquote, copy.groups())
            self.server.objects[target] = self.server.objects[source]
            return self.answer(200, {"done": True, "resource": self.about(target)})
        _, _, asked = self.parts()
        kind = asked.get("uploadType")
        if kind == "media":
            return self.put(asked["name"], body, asked)
        if kind == "multipart":
            boundary = re.search(
                r"boundary=['\"]?([^'\";]+)", self.headers["Content-Type"]
            )
            pieces = body.split(b"--" + boundary.group(1).encode())
            meta, content = (p.split(b"\r\n\r\n", 1)[-1] for p in pieces[1:3])
            if b"\r\n\r\n" not in pieces[1]:
                meta, content = (p.split(b"\n\n", 1)[-1] for p in pieces[1:3])
            content = content.removesuffix(b"\r\n").removesuffix(b"\n")
            return self.put(json.loads(meta)["name"], content, asked)
        if kind == "resumable":
            name = asked.get("name") or json.loads(body)["name"]
            where = (
                f"http://{self.headers['Host']}/session/{urllib.parse.quote(name, '')}"
            )
            self.server.sessions[name] = b""
            return self.answer(200, b"", [("Location", where)])
        return self.answer(400)

    def do_PUT(self):
        name = urllib.parse.unquote(
            self.path.rpartition("/session/")[2].partition("?")[0]
        )
        content = self.server.sessions[name] + self.read()
        span = self.headers.get("Content-Range", "")
        if span.endswith("/*"):
            self.server.sessions[name] = content
            return self.answer(308, b"", [("Range", f"bytes=0-{len(content) - 1}")])
        return self.put(name, content, {})

    def do_DELETE(self):
        _, name, _ = self.parts()
        found = self.server.objects.pop(name, None)
        self.answer(204 if found else 404)


class Server(ThreadingHTTPServer):
    """`objects` is what is stored; `written` every name that was, in order."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: Objects = {}
        self.sessions: dict[str, bytes] = {}
        self.written: list[str] = []
        self.count, self.lock = 0, threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """The server, and threads that answer, while the block runs."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
