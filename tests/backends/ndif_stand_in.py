"""A stand-in for NDIF: its HTTP interface as nnsight 0.8.1 speaks to it, in a process that has no attnviz.

    python ndif_stand_in.py MODELS        MODELS: {"org/name": folder} as JSON; prints the port it listens on

A job is read with nnsight's own deserialisation and run against a model from the folder, as a server would, when it is
first asked after; the questions before are answered QUEUED. POST /behave {"next": …} makes the next job go wrong.
"""

from __future__ import annotations

import email
import importlib.abc
import io
import json
import sys
import traceback
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

KEY = "the-right-key"


class NoAttnviz(importlib.abc.MetaPathFinder):
    """attnviz is not installed on NDIF."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in ("attnviz", "tests"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def packed(saved: Any) -> bytes:
    """A result as it is sent."""
    import torch
    import zstandard

    file = io.BytesIO()
    torch.save(saved, file)
    return zstandard.ZstdCompressor().compress(file.getvalue())


WRONG = {"garble": lambda: b"not a result", "code": lambda: packed({"found": print}), "empty": lambda: packed({})}


class StandIn:
    def __init__(self, folders: dict[str, str]) -> None:
        self.folders = folders
        self.models: dict[str, Any] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.results: dict[str, bytes] = {}
        self.next = ""
        self.seen: list[dict[str, Any]] = []

    def model(self, name: str) -> Any:
        import nnsight
        import torch

        if name not in self.models:
            dtype = torch.bfloat16 if name.endswith("-bf16") else torch.float32
            self.models[name] = nnsight.TransformersModel(
                self.folders[name], task="text-generation", dispatch=True, dtype=dtype
            )
            self.models[name]._module.eval()
        return self.models[name]

    def submit(self, envelope: dict[str, Any], blob: bytes) -> str:
        job = f"job-{len(self.jobs)}"
        name = json.loads(envelope["model_key"].split(":", 1)[1])["repo_id"]
        self.jobs[job] = {"name": name, "envelope": envelope, "blob": blob, "asked": 0, "mode": self.next}
        self.seen.append({"model_key": envelope["model_key"], "env": envelope["env"], "sent": len(blob)})
        self.next = ""
        return job

    def status(self, job: str, address: str) -> dict[str, Any]:
        held = self.jobs[job]
        held["asked"] += 1
        if held["asked"] == 1 or held["mode"] == "queue":
            return {"id": job, "status": "QUEUED", "description": "1 ahead"}
        if held["mode"] == "fail":
            return {
                "id": job,
                "status": "ERROR",
                "description": "Traceback (most recent call last):\n  …\nOSError: full",
            }
        if job not in self.results:
            try:
                self.results[job] = WRONG[held["mode"]]() if held["mode"] in WRONG else self.run(held)
            except Exception:
                return {"id": job, "status": "ERROR", "description": traceback.format_exc()}
        return {"id": job, "status": "COMPLETED", "data": f"{address}/result/{job}"}

    def run(self, held: dict[str, Any]) -> bytes:
        """What a server does with a job: deserialise, execute, keep what was saved."""
        from nnsight.schema.request import RequestModel
        from nnsight.tracing import tracer as tracing

        model, compress = self.model(held["name"]), held["envelope"]["compress"]
        model._remoteable_set_env(held["envelope"]["env"])
        tracer = RequestModel.deserialize(held["blob"], model._remoteable_persistent_objects(), compress)
        frame = tracer.info.frame
        tracing.inc()
        try:
            tracer.execute(tracer.info.code)
            saved = {name: value for name, value in frame.f_locals.items() if id(value) in tracing._saves()}
        finally:
            tracing.dec()
        content = packed(saved)
        self.seen[-1]["returned"] = len(content)
        return content


class Handler(BaseHTTPRequestHandler):
    stand_in: StandIn

    def log_message(self, *args: Any) -> None:
        return None

    def answer(self, code: int, content: Any) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/behave":
            self.stand_in.next = json.loads(body)["next"]
            return self.answer(200, {})
        if self.stand_in.next == "away":
            self.stand_in.next = ""
            return self.answer(503, {"detail": "NDIF is being updated"})
        if self.headers.get("ndif-api-key") != KEY:
            return self.answer(401, {"detail": f"Unknown API key {self.headers.get('ndif-api-key')}"})
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = {
            p.get_param("name", header="content-disposition"): p for p in email.message_from_bytes(head + body).walk()
        }
        envelope = json.loads(parts["data"].get_payload(decode=True))
        job = self.stand_in.submit(envelope, parts["blob"].get_payload(decode=True))
        return self.answer(200, {"id": job, "status": "RECEIVED"})

    def do_GET(self) -> None:
        _, kind, *rest = self.path.split("/")
        if kind == "seen":
            return self.answer(200, self.stand_in.seen)
        if kind == "response":
            return self.answer(200, self.stand_in.status(rest[0], f"http://{self.headers['Host']}"))
        return self.answer(200, self.stand_in.results[rest[0]])


def main() -> None:
    sys.meta_path.insert(0, NoAttnviz())
    sys.path[:] = [p for p in sys.path if p not in ("", ".")]
    import warnings

    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    Handler.stand_in = StandIn(json.loads(sys.argv[1]))
    server = HTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
