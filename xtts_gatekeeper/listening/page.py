"""The page as it is sent: by the server with its scripts beside it, or whole in one file without any server."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from xtts_gatekeeper.data import import_extra
from xtts_gatekeeper.record.journal import to_json

_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


@cache
def assets() -> dict[str, tuple[bytes, str]]:
    """What the page needs beside itself: name -> content and type. Nothing else is ever served under `/static/`."""
    folder = files("xtts_gatekeeper.listening") / "static"
    found = {}
    for item in folder.iterdir():
        kind = _TYPES.get("." + item.name.rpartition(".")[2])
        if kind is not None:
            found[item.name] = (item.read_bytes(), kind)
    return found


def online_page(title: str, csrf: str) -> str:
    """The page that a server sends."""
    return _render(title=title, csrf=csrf, offline=None)


def offline_page(title: str, document: dict[str, Any]) -> str:
    """The page as one file that asks for nothing from anywhere.

    Args:
        title: of the page.
        document: what a server would tell, and the sound.
    """
    sources = {name: content.decode() for name, (content, _) in assets().items()}
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashes('.js')}",
            f"style-src {_hashes('.css')}",
            "media-src data:",
            "connect-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    # No text ends the element that it stands in, whatever it is.
    told = to_json(document).replace("<", "\\u003c")
    return _render(title=title, csrf="", offline={"policy": policy, "sources": sources, "document": told})


def _hashes(ending: str) -> str:
    found = [hashlib.sha256(content).digest() for name, (content, _) in assets().items() if name.endswith(ending)]
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in found)


def _render(**values: Any) -> str:
    jinja2 = import_extra("jinja2", "listen")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("xtts_gatekeeper.listening"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return str(environment.get_template("listen.html").render(**values))
