"""The tests; a package so that `tests.servers` is found however pytest is started."""
