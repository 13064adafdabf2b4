"""The small models that ship with the project: their generators, training scripts, weights and model cards."""

from pathlib import Path

LANGUAGE = Path(__file__).parent / "language"  # folder of the embedded language model
