"""A stand-in for the Hugging Face hub on loopback: the few end points that downloading and uploading use, with what a hub may do wrong."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 10_000  # bytes from which a file is kept as a large one (LFS), behind a redirect


def set_on(monkeypatch, url: str, folder: Path) -> None:
    """Let the library speak to `url` alone, by plain requests, and keep what it keeps below `folder`."""
    from huggingface_hub import constants

    places = {"HF_HOME": folder / "home", "HF_HUB_CACHE": folder / "cache", "HF_TOKEN_PATH": folder / "token"}
    values = {"ENDPOINT": url, "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}", "HF_HUB_DISABLE_XET": True}
    for name, value in (values | {name: str(place) for name, place in places.items()}).items():
        monkeypatch.setattr(constants, name, value)


def commit_of(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class Hub:
    """Repositories by "models/owner/name"; what was asked for; and switches for what goes wrong."""

    def __init__(self):
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []  # (method, path)
        self.tokens: set[str | None] = set()  # with the hub's own requests
        self.tokens_elsewhere: set[str | None] = set()  # with those to the place of large files
        self.made: dict[str, dict] = {}  # what create_repo was told
        self.messages: list[str] = []
        self.status = 0  # answer everything with it
        self.private = ""  # token that is asked for
        self.spoil: dict[str, bytes] = {}  # file name -> content sent in its place
        self.names: dict[str, str] = {}  # file name -> name in the listing
        self.more: dict = {}  # keys of the listing, in place of the true ones
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, "hub"))
        self.store = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, "store"))
        for server in (self.server, self.store):
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def store_url(self) -> str:
        return f"http://localhost:{self.store.server_port}"

    def close(self) -> None:
        for server in (self.server, self.store):
            server.shutdown()
            server.server_close()

    def put(self, repository: str, files: dict[str, bytes], branch: str = "main") -> str:
        commit = commit_of(files)
        self.commits.setdefault(repository, {})[commit] = files
        self.branches.setdefault(repository, {})[branch] = commit
        return commit

    def files(self, repository: str, branch: str = "main") -> dict[str, bytes]:
        return self.commits[repository][self.branches[repository][branch]]

    def listing(self, repository: str, commit: str) -> dict:
        siblings = []
        for name, content in self.commits[repository][commit].items():
            one = {"rfilename": self.names.get(name, name), "size": len(content)}
            one["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            if len(content) >= LARGE:
                one["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            siblings.append(one)
        return {"id": repository.partition("/")[2], "sha": commit, "siblings": siblings} | self.more


def _handler(hub: Hub, kind: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args) -> None: ...

        def answer(self, content: bytes = b"", status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def say(self, value, status: int = 200, **headers: str) -> None:
            self.answer(json.dumps(value).encode(), status, **headers)

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            split = urlsplit(self.path)
            path, token = unquote(split.path), self.headers.get("Authorization")
            hub.asked.append((self.command, path))
            (hub.tokens if kind == "hub" else hub.tokens_elsewhere).add(token)
            if hub.status:  # as some proxies do, it sends back what it was sent
                return self.say({"error": f"no: {token}"}, hub.status, X_Error_Message=f"no: {token}")
            if found := re.fullmatch(r"/large/(\w+)", path):
                if self.command == "PUT":
                    hub.large[found[1]] = body
                return self.answer(b"" if self.command == "PUT" else hub.large[found[1]])
            if hub.private and token != f"Bearer {hub.private}":
                return self.say({"error": "sign in"}, 401)
            if found := re.fullmatch(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)/(revision|preupload|commit|branch)/(.+)", path):
                return getattr(self, found[3])(f"{found[1]}/{found[2]}", found[4], body, parse_qs(split.query))
            if found := re.fullmatch(r"/(?:(datasets)/)?([\w.-]+/[\w.-]+)/resolve/(\w+)/(.+)", path):
                return self.resolve(f"{found[1] or 'models'}/{found[2]}", found[3], found[4])
            if path == "/api/repos/create":
                return self.create(json.loads(body))
            if path == "/api/validate-yaml":
                return self.say({"errors": [], "warnings": []})
            if path.endswith(".git/info/lfs/objects/batch"):
                objects = json.loads(body)["objects"]
                links = [{"upload": {"href": f"{hub.store_url}/large/{one['oid']}"}} for one in objects]
                return self.say({"objects": [one | {"actions": link} for one, link in zip(objects, links, strict=True)]})
            return self.say({"error": "no such place"}, 404)

        do_GET = do_HEAD = do_POST = do_PUT = serve

        def revision(self, repository: str, revision: str, body: bytes, query: dict) -> None:
            if repository not in hub.commits:
                return self.say({"error": "none"}, 404, X_Error_Code="RepoNotFound")
            commit = hub.branches[repository].get(revision, revision)
            if commit not in hub.commits[repository]:
                return self.say({"error": "none"}, 404, X_Error_Code="RevisionNotFound")
            return self.say(hub.listing(repository, commit))

        def resolve(self, repository: str, commit: str, name: str) -> None:
            name = next((true for true, shown in hub.names.items() if shown == name), name)
            content = hub.commits[repository][commit][name]
            sent = hub.spoil.get(name, content)
            about = {"X_Repo_Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            if len(content) < LARGE:
                return self.answer(sent, **about)
            oid = hashlib.sha256(content).hexdigest()
            hub.large[oid] = sent
            about |= {"X_Linked_Size": str(len(sent)), "X_Linked_Etag": f'"{oid}"', "Location": f"{hub.store_url}/large/{oid}"}
            return self.answer(status=302, **about)

        def create(self, about: dict) -> None:
            repository = f"{about.get('type') or 'model'}s/{about.get('organization')}/{about['name']}"
            if repository in hub.commits:
                return self.say({"url": f"{hub.url}/{repository.partition('/')[2]}"}, 409)
            hub.made[repository] = about
            hub.put(repository, {".gitattributes": b"*.safetensors filter=lfs\n"})
            return self.say({"url": f"{hub.url}/{repository.partition('/')[2]}"})

        def branch(self, repository: str, name: str, body: bytes, query: dict) -> None:
            hub.branches[repository].setdefault(name, hub.branches[repository]["main"])
            return self.say({})

        def preupload(self, repository: str, revision: str, body: bytes, query: dict) -> None:
            files = json.loads(body)["files"]
            modes = ["lfs" if one["size"] >= LARGE else "regular" for one in files]
            told = [{"path": one["path"], "uploadMode": mode, "shouldIgnore": False} for one, mode in zip(files, modes, strict=True)]
            return self.say({"files": told})

        def commit(self, repository: str, revision: str, body: bytes, query: dict) -> None:
            files = dict(hub.files(repository, revision))
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "header":
                    hub.messages.append(value["summary"])
                    if value.get("parentCommit") not in (None, hub.branches[repository][revision]):
                        return self.say({"error": "moved"}, 412)
                elif line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.large[value["oid"]]
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            oid = hub.put(repository, files, revision)
            return self.say({"commitUrl": f"{hub.url}/{repository}/commit/{oid}", "commitOid": oid})

    return Handler
