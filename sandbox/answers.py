"""Answers of the sandbox: JSON as JavaScript writes it, and the refusals of the documentation."""

from collections.abc import Mapping

from starlette.responses import Response

from sandbox.signing import stringify

LOGIN_REQUIRED: Mapping[str, object] = {
    "success": False,
    "error": "login_required",
    "message": "Account link expired. Please go through the integration setup again.",
}


class RefusalError(Exception):
    """A call that is refused; carries the status and the body of the answer."""

    def __init__(self, status: int, body: Mapping[str, object] | str) -> None:
        super().__init__(status)
        self.status = status
        self.body = {"success": False, "message": body} if isinstance(body, str) else body

    def response(self) -> Response:
        """Give the answer."""
        return answer(self.body, self.status)


def answer(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON."""
    return raw(stringify(body), status, headers)


def raw(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with bytes that are JSON already."""
    return Response(body, status, headers, media_type="application/json")


def refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with ``{"success": false, "message": …}``."""
    return answer({"success": False, "message": message}, status, headers)
