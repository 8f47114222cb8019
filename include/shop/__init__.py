"""The sample shop: a source database to try the pipeline on."""
