"""Textual inversion with forward passes only, against a remote endpoint."""
