"""Settings for all tests: a property is a law about values, not about how long a busy machine takes."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
