"""Who asks: the owner of a token."""

from dataclasses import dataclass

#: The user of `LLMOPS_TOKEN`, and of who manages a server that asks for no token.
ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        user: Owner of the token.
        groups: Those the token was given; everybody is in `users` besides.
        admin: Whether everything is allowed.
    """

    user: str
    groups: frozenset[str] = frozenset()
    admin: bool = False
