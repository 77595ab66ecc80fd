"""Tests of the engine on other people's inference servers."""
