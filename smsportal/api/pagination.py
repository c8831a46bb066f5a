"""Keyset pages: each begins where the last one ended, as quick on page 10,000 as on page 1."""

import base64
import binascii
import re
import uuid
from typing import Any
from urllib.parse import parse_qsl

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter
from rest_framework.exceptions import ValidationError
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.views import APIView


class KeysetPagination(CursorPagination):
    """Newest first, by primary key; `cursor` continues, `pageSize` is 1 to 200."""

    ordering = "-pk"
    page_size = 50
    page_size_query_param = "pageSize"
    max_page_size = 200

    @classmethod
    def parameters(cls) -> list[OpenApiParameter]:
        """As the OpenAPI document describes them."""
        return [
            OpenApiParameter(
                "pageSize",
                {"type": "integer", "minimum": 1, "maximum": cls.max_page_size},
                description=f"1 to {cls.max_page_size}; {cls.page_size} when left out.",
            ),
            OpenApiParameter(
                "cursor", {"type": "string", "format": "cursor"}, description="Made by `next` and `previous`."
            ),
        ]

    def get_page_size(self, request: Request) -> int:
        asked = request.query_params.get("pageSize", str(self.page_size))
        if not re.fullmatch(r"[0-9]{1,3}", asked) or not 1 <= int(asked) <= self.max_page_size:
            raise ValidationError({"pageSize": f"Must be a whole number from 1 to {self.max_page_size}."})
        return int(asked)

    def paginate_queryset(self, queryset: Any, request: Request, view: APIView | None = None) -> list[Any] | None:
        cursor = request.query_params.get("cursor")
        if cursor is not None and not _is_ours(cursor, queryset):
            raise ValidationError({"cursor": "Not a cursor of this list. Follow `next` and `previous` as they are."})
        return super().paginate_queryset(queryset, request, view)


def _is_ours(cursor: str, queryset: QuerySet[Any]) -> bool:
    """Whether `cursor` holds nothing but what CursorPagination writes into one for this list."""
    try:
        text = base64.b64decode(cursor.encode("ascii"), validate=True).decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True)
        tokens = dict(pairs)
        position = tokens.pop("p")
        if queryset.model._meta.pk.get_internal_type() == "UUIDField":
            uuid.UUID(position)
        elif not 0 <= int(position) < 2**63:
            return False
    except (KeyError, ValueError, UnicodeError, binascii.Error):
        return False
    return tokens in ({}, {"r": "1"}) and len(pairs) == 1 + len(tokens)
