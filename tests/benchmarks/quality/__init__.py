"""The measure of the search: held-out subjects and styles, methods side by side. `python -m tests.benchmarks.quality`."""
