"""The routes of a server, which others can replace while it answers requests.

aiohttp freezes the routes of an application, and a connection belongs to one application. So the
application has this one resource, which asks the routes of the moment. A request under way keeps
the handler that it was given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NoReturn

from aiohttp import web
from aiohttp.abc import AbstractMatchInfo

ROOT: Final = "/"


class CurrentRoutes(web.AbstractResource):
    """The resource below which every path is. `replace` gives it other routes."""

    def __init__(self, routes: Sequence[web.RouteDef]) -> None:
        super().__init__()
        self.replace(routes)

    def replace(self, routes: Sequence[web.RouteDef]) -> None:
        """Answers by these routes from the next request on."""
        self._routes = web.UrlDispatcher()
        self._routes.add_routes(routes)

    async def resolve(self, request: web.Request) -> tuple[Any, set[str]]:
        """Returns the route of a request; one that answers 404 or 405 where there is none."""
        found: AbstractMatchInfo = await self._routes.resolve(request)
        return found, set()

    @property
    def canonical(self) -> str:
        """The path below which it is asked."""
        return ROOT

    def raw_match(self, path: str) -> bool:
        """Returns False: no route is looked for here by the text of its path."""
        return False

    def get_info(self) -> Any:
        """Returns what aiohttp shows of a resource."""
        return {"path": ROOT}

    def url_for(self, **_: str) -> NoReturn:
        """Raises TypeError: it has no URL of its own."""
        raise TypeError("these routes have no URL of their own")

    def add_prefix(self, prefix: str) -> None:
        """Raises TypeError: it is no part of another application."""
        raise TypeError(f"no prefix can be added here: {prefix}")

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())
