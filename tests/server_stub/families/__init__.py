"""One test file a model family."""
