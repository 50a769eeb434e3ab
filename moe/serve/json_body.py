"""JSON request bodies, parsed by the same strict parser as every file."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from experts.json_io import parse_json


class JsonRequest(Request):
    """A request whose body is strict JSON: no key twice, no NaN, bounded depth and digits."""

    async def json(self) -> Any:
        """Parse the body.

        Raises:
            ValueError: as `parse_json`; FastAPI turns it into an error 400.
        """
        if not hasattr(self, "_json"):
            self._json = parse_json(await self.body())
        return self._json


class JsonRoute(APIRoute):
    """A route that reads its body as `JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of a request."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return handler
