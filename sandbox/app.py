"""The ASGI application: Cobalt's routes and the control interface over one world."""

from starlette.applications import Starlette
from starlette.routing import Mount

from sandbox import control, upstream
from sandbox.world import World


def build_app(world: World) -> Starlette:
    """Put the application together; it needs ``request.state.hang_up`` of ``sandbox.server``."""
    return Starlette(
        routes=[Mount("/_sandbox", routes=control.routes(world)), *upstream.routes(world)]
    )
