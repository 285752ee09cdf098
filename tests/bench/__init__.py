"""Load figures: tests/bench/run prints them, README.md says what they mean. Only Python's standard library."""
