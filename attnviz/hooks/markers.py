"""The two pluggy markers. `hookimpl` is what a plugin puts on its functions."""

from __future__ import annotations

import pluggy

PROJECT = "attnviz"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
