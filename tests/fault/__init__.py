"""The history test: everybody records what they did while servers die, and an offline checker judges it. README.md of the
tests says how to run it."""
