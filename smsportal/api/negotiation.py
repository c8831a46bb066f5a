"""What the API answers in: JSON, whatever the caller says it accepts."""

from typing import Any, cast

from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request


class JsonOnly(BaseContentNegotiation):
    """The parser by the body's media type; the view's first renderer, always."""

    def select_parser(self, request: Request, parsers: Any) -> BaseParser | None:
        for parser in parsers:
            # To the letter: "*/*" is no type of a body.
            if request.content_type.split(";")[0].strip().lower() == parser.media_type:
                return cast(BaseParser, parser)
        return None

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        return renderers[0], renderers[0].media_type
