"""The pipeline on one machine with Python and make alone: servers, environment, the commands behind the Makefile."""
