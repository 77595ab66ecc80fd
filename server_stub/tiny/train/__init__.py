"""Rebuilds the bundled model from a seed: `python -m server_stub.tiny.train --work DIR`."""
