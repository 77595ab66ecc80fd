"""One test file a module of routes: what `test_app` and `test_auth` do not ask."""
