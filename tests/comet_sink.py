"""A loopback stand-in for the Comet backend that the real comet_ml SDK accepts, with faults to order.

It is written from the client's side: it proves that our code and the real client agree, not what the
Comet service does. It lists what it was asked and never taught in ``untaught``.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

KEY = "cm-KEY-of-the-tests"
# What the client does with these answers does not matter to it: it only wants a 200.
SHRUGGED = {"notify/event", "log/add", "health/ping", "notification/experiment", "rpc/register-rpc"}
SHRUGGED = {f"clientlib/{name}" for name in SHRUGGED | {"rpc/get-pending-rpcs"}}
WRITTEN = ["html", "log-other", "output", "dependencies", "update-status", "set-start-end-time"]
UPLOADS = ("clientlib/asset/upload", "clientlib/asset/asset-item", "clientlib/visualizations/upload")
BEATS = {"is_alive_beat_duration_millis": 10_000, "gpu_monitor_interval_millis": 60_000}
ACCOUNT = {"userName": "tester", "defaultWorkspaceName": "ws"}
ASSET_URLS = ("cometWebAssetUrl", "cometWebImageUrl", "cometRestApiAssetUrl", "cometRestApiImageUrl")


@dataclass
class Recorded:
    """What one experiment was told."""

    parameters: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    html: str = ""


@dataclass
class Asset:
    """One uploaded file."""

    asset_id: str
    name: str
    kind: str
    experiment: str
    version_id: str
    body: bytes
    metadata: Any

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()

    @property
    def described(self) -> dict[str, Any]:
        file = {"assetId": self.asset_id, "fileName": self.name, "fileSize": len(self.body)}
        place = {"dir": "", "link": None, "remote": False, "artifactVersionId": self.version_id}
        return file | place | {"type": self.kind, "metadata": self.metadata}

    @property
    def place(self) -> tuple[str, str, str]:
        return self.experiment, self.version_id, self.name


@dataclass
class Version:
    """One version of an artifact."""

    artifact: str
    version_id: str
    version: str
    experiment: str
    aliases: list[str]
    metadata: str = ""
    state: str = "OPEN"

    @property
    def described(self) -> dict[str, Any]:
        ids = {"artifactId": self.artifact, "artifactName": self.artifact, "workspaceName": "ws"}
        facts = {"alias": self.aliases, "metadata": self.metadata, "experimentKey": self.experiment}
        numbers = {"artifactVersion": self.version, "artifactVersionId": self.version_id, "state": self.state}
        return facts | numbers | {"tags": [], "artifact": ids | {"artifactType": "dataset", "tags": []}}


class CometSink:
    """A context manager; ``environ`` points the SDK at it.

    ``fault`` may be changed at any time: ``hang`` (nothing is answered), for uploads ``drop_uploads`` (the
    connection is closed), ``hang_uploads``, ``refuse_loose`` (413 for files of experiments, those of
    artifacts are taken). A key other than `KEY` gets 403, 90212.
    """

    def __init__(self) -> None:
        self.fault = ""
        self.experiments: dict[str, Recorded] = {}
        self.assets: list[Asset] = []
        self.versions: list[Version] = []
        self.untaught: list[str] = []
        self.heard: list[bytes] = []
        self.uploading = threading.Event()
        self._lock = threading.Lock()
        self.over = threading.Event()
        self._server = _QuietServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self._server.block_on_close = False

    def __enter__(self) -> CometSink:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    @property
    def environ(self) -> dict[str, str]:
        return {"COMET_URL_OVERRIDE": self.root + "clientlib/", "COMET_API_KEY": KEY, "COMET_WORKSPACE": "ws"}

    def files_of(self, name: str) -> dict[str, bytes]:
        """The files of the last version of an artifact."""
        last = [version for version in self.versions if version.artifact == name][-1]
        return {asset.name: asset.body for asset in self.assets if asset.version_id == last.version_id}

    def loose_assets(self) -> dict[str, Asset]:
        """The files of experiments, by name."""
        return {asset.name: asset for asset in self.assets if not asset.version_id}

    # What follows answers the client; `given` holds query and body together.

    def answer(self, path: str, given: dict[str, Any], key: str) -> tuple[int, Any]:
        if key not in ("", KEY):
            return 403, {"sdk_error_code": 90212, "msg": "API key is not registered"}
        with self._lock:
            try:
                return self._route(path)(given)
            except KeyError as error:
                self.untaught.append(f"{path} without {error}, with {sorted(given)}")
                return 400, {"msg": f"no {error}"}

    def _route(self, path: str) -> Callable[[dict[str, Any]], tuple[int, Any]]:
        routes: dict[str, Callable[[dict[str, Any]], tuple[int, Any]]] = {
            "clientlib/logger/add/run": self._add_run,
            "clientlib/logger/get/run": self._get_run,
            "clientlib/status-report/update": lambda _: (200, BEATS),
            "clientlib/isAlive/ver": lambda _: (200, {"version": "3.10.100"}),
            "clientlib/batch/logger/experiment/parameter": self._parameters,
            "clientlib/batch/logger/experiment/metric": self._metrics,
            "clientlib/tags/add-tags-to-experiment": self._tags,
            "clientlib/asset/3d-limits": lambda _: (200, {"maxUploadFileSizeInBytes": 10_000_000}),
            **dict.fromkeys(UPLOADS, self._upload),
            "api/rest/v2/write/artifacts/upsert": self._upsert,
            "api/rest/v2/write/artifacts/state": self._set_state,
            "api/rest/v2/artifacts/version": self._version,
            "api/rest/v2/artifacts/version/files": self._files,
            "api/rest/v2/experiment/asset/get-asset": self._asset,
            "api/rest/v2/experiment/asset/list": self._asset_list,
            "api/rest/v2/experiment/tags": lambda given: (200, {"tags": self._experiment(given).tags}),
            "api/rest/v2/experiment/metadata": self._metadata,
            "api/rest/v2/account-details": lambda _: (200, ACCOUNT),
        }  # fmt: skip
        if path in routes:
            return routes[path]
        rest = path.rpartition("/write/experiment/")
        if rest[1] and rest[2] in WRITTEN:
            return lambda given: self._write(rest[2], given)
        if path not in SHRUGGED:
            self.untaught.append(path)
        return lambda _: (200, {})

    def _experiment(self, given: dict[str, Any]) -> Recorded:
        return self.experiments.setdefault(given["experimentKey"], Recorded())

    def _add_run(self, given: dict[str, Any]) -> tuple[int, Any]:
        key = given["experimentKey"]
        if key in self.experiments and not given.get("getOrCreateEnabled"):
            return 400, {"sdk_error_code": 90999, "msg": "exists"}
        self._experiment(given)
        return self._handshake(key)

    def _get_run(self, given: dict[str, Any]) -> tuple[int, Any]:
        if given["previousExperiment"] not in self.experiments:
            return 400, {"sdk_error_code": 90999, "msg": "no such experiment"}
        return self._handshake(given["previousExperiment"])

    def _handshake(self, key: str) -> tuple[int, Any]:
        place = {"focusUrl": f"{self.root}ws/project/{key}?", "project_id": "p1", "runId": f"run-{key}"}
        urls = dict.fromkeys(ASSET_URLS, self.root + "assets")
        return 200, urls | place | {"s3DirectAccessEnabled": False}

    def _metadata(self, given: dict[str, Any]) -> tuple[int, Any]:
        key = given["experimentKey"]
        if key not in self.experiments:
            return 404, {"msg": "no such experiment"}
        return 200, {"experimentKey": key, "workspaceName": "ws", "projectName": "project"}

    def _parameters(self, given: dict[str, Any]) -> tuple[int, Any]:
        for item in given["values"]:
            self._experiment(given).parameters[item["parameterName"]] = item["parameterValue"]
        return 200, {}

    def _metrics(self, given: dict[str, Any]) -> tuple[int, Any]:
        for item in given["values"]:
            self._experiment(given).metrics[item["metricName"]] = item["metricValue"]
        return 200, {}

    def _tags(self, given: dict[str, Any]) -> tuple[int, Any]:
        self._experiment(given).tags += given.get("addedTags", [])
        return 200, {}

    def _write(self, what: str, given: dict[str, Any]) -> tuple[int, Any]:
        experiment = self._experiment(given)
        if what == "html":
            experiment.html = given["html"] if given.get("override") else experiment.html + given["html"]
        elif what == "log-other":
            experiment.others[given["key"]] = given.get("val", given.get("value"))
        return 200, {}

    def _upload(self, given: dict[str, Any]) -> tuple[int, Any]:
        if self.fault == "refuse_loose" and not given.get("artifactVersionId"):
            return 413, {"msg": "too large"}
        kind = given.get("type", "image" if "figName" in given else "")
        asset = Asset(
            given.get("assetId") or given["imageId"], given.get("fileName") or given["figName"], kind,
            given["experimentId"], given.get("artifactVersionId") or "", given["file"], given.get("metadata"),
        )  # fmt: skip
        if given.get("overwrite") in ("true", "True", True):
            self.assets = [other for other in self.assets if other.place != asset.place]
        self.assets.append(asset)
        return 200, {"assetId": asset.asset_id, "imageId": asset.asset_id}

    def _upsert(self, given: dict[str, Any]) -> tuple[int, Any]:
        name = given["artifactName"]
        before = [version for version in self.versions if version.artifact == name]
        number = given.get("version") or f"{len(before) + 1}.0.0"
        if any(version.version == number for version in before):
            return 400, {"sdk_error_code": 90401, "msg": "version exists"}
        aliases = {"Latest", *(given.get("alias") or [])}
        for version in before:
            version.aliases = [alias for alias in version.aliases if alias not in aliases]
        made = Version(name, f"v-{len(self.versions)}", number, given["experimentKey"], sorted(aliases))
        made.metadata = given.get("versionMetadata") or ""
        self.versions.append(made)
        ids = {"artifactId": name, "artifactVersionId": made.version_id, "currentVersion": number}
        return 200, ids | {"previousVersion": before[-1].version if before else None}

    def _set_state(self, given: dict[str, Any]) -> tuple[int, Any]:
        for version in self.versions:
            if version.version_id == given["artifactVersionId"] and version.state != "ERROR":
                version.state = given["state"]
        return 200, {}

    def _find(self, given: dict[str, Any]) -> Version | None:
        wanted = given.get("versionOrAlias") or given.get("alias") or given.get("version") or "Latest"
        for version in reversed(self.versions):
            named = unquote(given.get("artifactName", "")) == version.artifact
            words = [word.lower() for word in (version.version, *version.aliases)]
            if given.get("versionId", version.version_id) == version.version_id and (
                "versionId" in given or (named and wanted.lower() in words)
            ):
                return version
        return None

    def _version(self, given: dict[str, Any]) -> tuple[int, Any]:
        version = self._find(given)
        if version is None:
            return 400, {"sdk_error_code": 624523, "msg": "no such artifact"}
        if version.state != "CLOSED" and "versionId" not in given:
            return 400, {"sdk_error_code": 90403, "msg": "not final"}
        size = sum(len(asset.body) for asset in self.assets if asset.version_id == version.version_id)
        return 200, version.described | {"sizeInBytes": size}

    def _files(self, given: dict[str, Any]) -> tuple[int, Any]:
        version = self._find(given)
        found = [asset for asset in self.assets if version and asset.version_id == version.version_id]
        return 200, {"files": [asset.described for asset in found]}

    def _asset(self, given: dict[str, Any]) -> tuple[int, Any]:
        for asset in self.assets:
            if asset.asset_id == given["assetId"]:
                return 200, asset.body
        return 404, {"msg": "no such asset"}

    def _asset_list(self, given: dict[str, Any]) -> tuple[int, Any]:
        found = [asset for asset in self.assets if asset.experiment == given["experimentKey"]]
        return 200, {"assets": [asset.described for asset in found if not asset.version_id]}


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that were killed while they were answered."""


def _handler_of(sink: CometSink) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if len(body) < length:  # the client was killed while it spoke
                self.close_connection = True
                return
            address = urlsplit(self.path)
            path = "/".join(part for part in address.path.split("/") if part)
            sink.heard += [self.path.encode(), str(self.headers).encode(), body]
            uploads = path in UPLOADS
            if uploads:
                sink.uploading.set()
            fault = sink.fault.removesuffix("_uploads" if uploads else "")
            if fault == "hang":
                sink.over.wait()
            if fault in ("hang", "drop"):
                self.close_connection = True
                return
            given = dict(parse_qsl(address.query)) | _fields_of(body, self.headers)
            keys = (self.headers.get("Comet-Sdk-Api-Key"), self.headers.get("Authorization"))
            status, value = sink.answer(path, given, keys[0] or keys[1] or given.get("apiKey", ""))
            raw = value if isinstance(value, bytes) else json.dumps(value).encode()
            kind = "application/octet-stream" if isinstance(value, bytes) else "application/json"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_PUT = do_GET  # noqa: N815  the names that http.server looks for

    return Handler


def _fields_of(body: bytes, headers: Any) -> dict[str, Any]:
    kind = headers.get("Content-Type") or ""
    if headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    if kind.startswith("multipart/"):
        return _parts_of(body, kind)
    try:
        found = json.loads(body) if body else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {"values": found}


def _parts_of(body: bytes, kind: str) -> dict[str, Any]:
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
    parts: dict[str, Any] = {}
    for part in message.iter_parts():  # type: ignore[attr-defined]
        raw = part.get_payload(decode=True)
        name = part.get_param("name", header="content-disposition")
        parts[name] = raw if part.get_filename() or name == "file" else raw.decode()
    return parts
