"""The tests of dbt's macros stay away where a project of one's own has not kept what they test."""

from include.dbt.project import PROJECT_DIR

TESTED = {"test_failing_rows.py": "failing_rows.sql"}
collect_ignore = [test for test, macro in TESTED.items() if not (PROJECT_DIR / "macros" / macro).exists()]
