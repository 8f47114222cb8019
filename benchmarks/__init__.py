"""`make bench`: how fast the project is, beside other ways to do the same. See docs/bench.md."""
