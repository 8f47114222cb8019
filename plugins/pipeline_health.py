"""Airflow's UI gets a page, Pipeline health, and each task instance a tab with the rows that failed its dbt test.

Every process that asks for plugins imports this module, tasks included: what the page needs is imported when it is
first asked for, in the API server alone.
"""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

PREFIX = "/pipeline-health"
PAGE = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/") + PREFIX


async def page(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    """The page, as an ASGI application. What no text in PostgreSQL holds is refused before a database is asked."""
    if b"%00" in scope.get("query_string", b"") + scope.get("raw_path", b""):
        await send({"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"a NUL is part of no name"})
        return
    from include.orchestrate.health_page import app

    await app(scope, receive, send)


class PipelineHealth(AirflowPlugin):
    name = "pipeline_health"
    fastapi_apps = [{"name": "Pipeline health", "app": page, "url_prefix": PREFIX}]
    external_views = [
        {
            "name": "Health",  # what fits below the icon
            "destination": "nav",
            "url_route": "pipeline-health",
            "href": f"{PAGE}/",
            "icon": f"{PAGE}/icon.svg",
            "nav_top_level": True,
        },
        {
            "name": "Failing rows",
            "destination": "task_instance",
            "url_route": "failing-rows",
            "href": f"{PAGE}/failures?run_id={{RUN_ID}}&task_id={{TASK_ID}}",
        },
    ]
