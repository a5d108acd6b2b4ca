"""Whatever ``shmtransport`` exports says what it guarantees, and so does every public method of it."""

import inspect
from collections.abc import Iterator, Mapping

import shmtransport


def public_things(exported: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """All that is exported, and what is public in each exported class itself, not in its bases."""
    for name, thing in exported.items():
        yield name, thing
        if inspect.isclass(thing):
            for member, value in vars(thing).items():
                if not member.startswith("_") and is_documentable(value):
                    yield f"{name}.{member}", value


def is_documentable(value: object) -> bool:
    return inspect.isroutine(value) or isinstance(value, property | classmethod | staticmethod)


def undocumented(exported: Mapping[str, object]) -> list[str]:
    """Names of ``public_things`` without a docstring; a dataclass's generated signature is none."""
    found = []
    for name, thing in public_things(exported):
        if not (inspect.isclass(thing) or inspect.ismodule(thing) or is_documentable(thing)):
            continue  # a constant; Python gives it its type's docstring
        text = inspect.cleandoc(thing.__doc__ or "")
        if not text or text.startswith(f"{name}("):
            found.append(name)
    return found


def test_everything_public_has_a_docstring() -> None:
    exported = {name: getattr(shmtransport, name) for name in shmtransport.__all__}
    assert exported
    assert undocumented(exported) == []


def test_what_has_no_docstring_is_found() -> None:
    class Bare:
        def method(self) -> None: ...

        @property
        def attribute(self) -> int:
            return 1

        def _private(self) -> None: ...

    class Documented:
        """Has one."""

        @classmethod
        def create(cls) -> None:
            """Has one."""

    assert undocumented({"Bare": Bare, "Documented": Documented, "VERSION": "1"}) == [
        "Bare",
        "Bare.method",
        "Bare.attribute",
    ]
