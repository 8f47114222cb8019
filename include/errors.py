"""The errors the pipeline raises on purpose.

    PipelineError
    ├── TransientError     the outside failed: a later attempt may succeed, so Airflow retries
    │   └── StalledError   a server, or what stands before it, stays silent with the connection open
    ├── TerminalError      a person has to act: a retry would only repeat the message
    │   ├── ConfigError    the dbt source entry, a parameter or an Airflow Variable says something impossible
    │   ├── EmptyError     the table was never loaded: there is nothing to look after yet
    │   └── DriftError     source and warehouse no longer have the same shape
    └── LocalError         something on the machine is in the way of a `make` command (include/local/errors.py)

Every message names the table, the offending value and the command or edit that helps.
"""


class PipelineError(Exception):
    """Base of every error raised on purpose."""


class TransientError(PipelineError):
    """The outside failed in a way that a later attempt may survive (network, lock, restart)."""


class StalledError(TransientError):
    """A stream in which nothing has moved for too long."""


class TerminalError(PipelineError):
    """A retry cannot help: the message says what a person has to do."""


class ConfigError(TerminalError):
    """A dbt source entry, a run parameter or an Airflow Variable is unusable."""


class EmptyError(TerminalError):
    """The table was never loaded, so there is nothing to compare."""


class DriftError(TerminalError):
    """The source table changed in a way that needs a decision before anything is loaded."""
