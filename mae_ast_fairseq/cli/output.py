"""How commands print."""


def printable(name: str) -> str:
    """Replace the bytes of a file name that are not UTF-8."""
    return name.encode(errors="replace").decode()
