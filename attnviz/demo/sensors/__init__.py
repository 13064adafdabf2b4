"""Simulated sensor data whose drivers are known, and models trained on it: a test bed for analyses of sensors."""

from pathlib import Path

SHIPPED = Path(__file__).parent / "shipped"  # a folder for each process: example data, and the model where there is one
