"""The commands behind the Makefile's container targets. Standard library alone: they need no virtual environment."""
