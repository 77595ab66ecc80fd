"""The bundled model and its training."""

PICTURES = 96
