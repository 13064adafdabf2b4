"""Pieces of the page: `gr.HTML` subclasses, each with its script and its style beside it."""
