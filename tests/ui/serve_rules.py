"""The app over all built-in plugins and the test plugins, with the models of rules only."""

import dataclasses
import sys
from pathlib import Path

from attnviz.registry import load_registry
from attnviz.session import Session
from attnviz.ui.launch import launch_app

registry = load_registry(folder=Path(__file__).parent / "plugins", entry_points=False)
models = {name: dataclasses.replace(entry, default=name == "fake") for name, entry in registry.models.items()}
launch_app(Session(dataclasses.replace(registry, models=models)), port=int(sys.argv[1]), quiet=True)
