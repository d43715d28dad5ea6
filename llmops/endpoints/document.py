"""The base of every model of the endpoint document."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

URL_PATTERN = r"^https?://[^\s/{}@]+(/[^\s{}]*)?$"
#: Where requests go: no credentials in it, no template.
Url = Annotated[str, Field(pattern=URL_PATTERN)]

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


def checked_name(value: str) -> str:
    """Check the name of an endpoint or a served entity.

    Raises:
        ValueError: Not 1 to 63 letters, digits, dashes and underscores, beginning with a letter or digit.
    """
    if not _NAME.fullmatch(value):
        raise ValueError(f"'{value}' is not a name: 1 to 63 letters, digits, dashes and underscores")
    return value


class Document(BaseModel):
    """A part of the endpoint document: frozen, and refusing keys it does not know.

    A file is read strictly. A body that arrives over REST is validated with ``extra="ignore"``: stock clients send
    fields of newer releases.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def document(self) -> dict[str, Any]:
        """The part as plain JSON, without what was not given."""
        return self.model_dump(mode="json", exclude_none=True, exclude_unset=True)
