"""What goes wrong on a person's machine."""

from include.errors import PipelineError


class LocalError(PipelineError):
    """One sentence for the person at the terminal: what is in the way, and what removes it."""
