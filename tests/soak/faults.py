"""Members that do what the soak is there to find, each once: for the test that it is found."""

import time

from tests.soak.member import Held, Member


class Misled(Member):
    """Takes the first tensor that it opens for another one."""

    misled = False

    def verify(self, held: Held, when: str) -> None:
        if when == "opened" and not self.misled:
            self.misled = True
            held = held._replace(number=held.number ^ 1)
        super().verify(held, when)


class Deaf(Member):
    """Does not come to rest."""

    def obey(self, word: str, argument: object = None) -> bool:
        while word == "rest":
            time.sleep(1)
        return super().obey(word, argument)


class Miser(Member):
    """Holds on to a tensor when everybody lets go, for one round."""

    kept: Held | None = None
    done = False

    def keep(self, held: Held) -> None:
        if held.ring_id and self.kept is None and not self.done:
            self.kept = held
        super().keep(held)

    def obey(self, word: str, argument: object = None) -> bool:
        if word == "go" and self.kept is not None:
            self.kept, self.done = None, True
        return super().obey(word, argument)


FAULTS: dict[str, type[Member]] = {"corruption": Misled, "hang": Deaf, "leak": Miser}
