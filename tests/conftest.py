"""Settings for all tests."""

from hypothesis import settings

# No deadline: the first call of a kernel compiles it. Derandomized: the same cases everywhere.
settings.register_profile("pvq", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("pvq")
